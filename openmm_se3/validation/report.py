"""The result of a validation as a table and as a JSON file."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections import Counter
from pathlib import Path
from typing import Any

import openmm
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from openmm_se3.files import atomic_write
from openmm_se3.validation.accuracy import GROUP
from openmm_se3.validation.check import Check, Status
from openmm_se3.version import __version__

FORMAT = "openmm-se3 validation"
FORMAT_VERSION = 1
COLORS = {"pass": "green", "fail": "bold red", "not run": "yellow"}
WIDTH_WITH_NOTES = 110  # columns of the terminal
WORDS: dict[Status, str] = {"pass": "passed", "fail": "failed", "not run": "not run"}


@dataclasses.dataclass(frozen=True)
class Report:
    """All checks of one model.

    Attributes:
        model: Name or path of the model.
        metadata: What the model file says about itself.
        checks: The checks, in the order of the table.
    """

    model: str
    metadata: dict[str, Any]
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.status != "fail" for check in self.checks)

    def summary(self) -> str:
        """Return the verdict in one line."""
        counts = Counter(check.status for check in self.checks)
        parts = [f"{counts[s]} {w}" for s, w in WORDS.items() if counts[s]]
        verdict = f"{'PASSED' if self.passed else 'FAILED'}: {', '.join(parts)}"
        measured = [
            c for c in self.checks if c.group == GROUP and c.measured is not None
        ]
        if measured:
            errors = "; ".join(f"{c.name} {number(c)}" for c in measured)
            return f"{verdict}. Accuracy: {errors}"
        return (
            f"{verdict}. The code computes the network's equations; how accurate the "
            "network is was not checked: give --labels FILE"
        )

    def print(self, console: Console) -> None:
        """Print the table and the verdict."""
        title = f"openmm-se3 validate {self.model}"
        console.print(title, style="bold", markup=False)
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column("check", no_wrap=True)
        table.add_column("measured", justify="right", no_wrap=True, min_width=12)
        table.add_column("limit", justify="right", no_wrap=True, min_width=8)
        table.add_column("result", no_wrap=True, min_width=len("not run"))
        # The JSON file has the notes too.
        wide = console.width >= WIDTH_WITH_NOTES
        if wide:
            table.add_column("note", no_wrap=True, overflow="ellipsis")
        for group in dict.fromkeys(check.group for check in self.checks):
            table.add_row(Text(group, style="bold"))
            for check in self.checks:
                if check.group == group:
                    cells = _cells(check)
                    table.add_row(*(cells if wide else cells[:-1]))
        console.print(table)
        for check in self.checks:
            if check.status != "pass":
                console.print(
                    Text.assemble(
                        _status(check),
                        f": {check.group}, {check.name}: {number(check)} (limit "
                        f"{check.limit}) {check.note}",
                    )
                )
        console.print(self.summary())

    def write(self, path: str | Path) -> None:
        """Write the report as JSON, whole or not at all."""
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "model": self.model,
            "passed": self.passed,
            "checks": [check.to_dict() for check in self.checks],
            "model_metadata": self.metadata,
            "versions": versions(),
        }
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1, default=str) + "\n")


def versions() -> dict[str, str]:
    """Return the versions that the checks ran with."""
    return {
        "openmm_se3": __version__,
        "torch": torch.__version__,
        "openmm": openmm.Platform.getOpenMMVersion(),
        "python": platform.python_version(),
    }


def number(check: Check) -> str:
    """Return what was measured, with its unit."""
    number = "-" if check.measured is None else f"{check.measured:.3g}"
    return f"{number} {check.unit}".strip()


def _status(check: Check) -> Text:
    return Text(check.status, style=COLORS[check.status])


def _cells(check: Check) -> tuple[Text, ...]:
    texts = (f"  {check.name}", number(check), check.limit)
    return (*map(Text, texts), _status(check), Text(check.note))
