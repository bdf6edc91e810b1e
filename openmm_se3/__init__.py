"""Machine-learned force field for OpenMM: an SE(3)-Transformer trained on DFT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openmm_se3.version import __version__

if TYPE_CHECKING:
    from openmm_se3.force import SE3Potential, register_plugins

__all__ = ["SE3Potential", "__version__", "register_plugins"]


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that the command line starts without torch and OpenMM.
    if name in ("SE3Potential", "register_plugins"):
        from openmm_se3 import force

        return getattr(force, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
