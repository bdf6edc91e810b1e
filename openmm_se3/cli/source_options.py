"""Options that say how files of labels are to be read, shared by several verbs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from openmm_se3.units import ENERGY_UNITS, LENGTH_UNITS

# The formats of ``reference.sources``, which is imported only when a verb runs.
FORMATS = ("auto", "openmm-se3", "ani1", "ani1x", "comp6", "extxyz", "deepmd")

OPTIONS = (
    click.option(
        "--format",
        "format_",
        type=click.Choice(FORMATS),
        default="auto",
        show_default=True,
    ),
    click.option("--energy-key", help="Name of the energies in the file."),
    click.option("--forces-key", help="Name of the forces in the file."),
    click.option(
        "--energy-unit",
        type=click.Choice(list(ENERGY_UNITS)),
        default="eV",
        show_default=True,
        help="Of extended XYZ; forces are in it per length unit.",
    ),
    click.option(
        "--length-unit",
        type=click.Choice(list(LENGTH_UNITS)),
        default="angstrom",
        show_default=True,
        help="Of extended XYZ.",
    ),
    click.option("--gradient", is_flag=True, help="The forces are the gradient."),
    click.option(
        "--groups",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="NumPy file with the group of each frame.",
    ),
    click.option("--level", help="Level of theory, if the file does not say it."),
)


def source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command receives them as keywords of ``make_sources``."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def make_sources(files: tuple[Path, ...], format_: str, **options: Any) -> list[Any]:
    """Return the sources that files and options describe."""
    from openmm_se3.reference.sources import Source

    groups = options.pop("groups", None)
    return [
        Source(
            str(path),
            format=format_,
            groups=None if groups is None else str(groups),
            **options,
        )
        for path in files
    ]
