"""Versions: this package's, in one place, and those of the packages it stands on."""

from __future__ import annotations

import importlib.metadata

__version__ = "0.1.0"


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution without importing it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
