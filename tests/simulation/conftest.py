"""Runs that nothing interrupts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from resumed_runs import KINDS, content, run


@pytest.fixture(scope="session")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], dict[str, Any]]:
    """Return what a run of a kind records that nothing interrupts."""
    known: dict[str, dict[str, Any]] = {}

    def find(kind: str) -> dict[str, Any]:
        if kind not in known:
            out = tmp_path_factory.mktemp("whole") / kind
            run(out, **KINDS[kind])
            known[kind] = content(out)
        return known[kind]

    return find
