"""Options that say how files of labels are to be read, shared by several verbs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from openmm_se3.units import ENERGY_UNITS, FORCE_UNITS, LENGTH_UNITS

# Those of ``data.formats.registry``, which is imported only when a verb runs.
FORMATS = (
    *("auto", "openmm-se3", "ani1", "ani1x", "comp6", "torchani", "spice"),
    *("extxyz", "deepmd"),
)

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
        help="Unit of the energies.  [default: the format's own, eV of extended XYZ]",
    ),
    click.option(
        "--length-unit",
        type=click.Choice(list(LENGTH_UNITS)),
        help="Unit of positions and box.  [default: the format's own, angstrom]",
    ),
    click.option(
        "--force-unit",
        type=click.Choice(list(FORCE_UNITS)),
        help="Unit of the forces.  [default: energy unit per length unit]",
    ),
    click.option(
        "--gradient/--no-gradient",
        default=None,
        help="The forces are stored as the gradient, or not.  [default: as the format "
        "has it]",
    ),
    click.option(
        "--charged",
        type=click.Choice(["refuse", "drop", "keep"]),
        default="refuse",
        show_default=True,
        help="Frames with a charge or unpaired electrons, for a model that knows "
        "neither.",
    ),
    click.option(
        "--max-forces-std",
        type=click.FloatRange(min=0.0, min_open=True),
        help="Leave out frames whose forces an ensemble is uncertain of by more than "
        "this, eV/A.",
    ),
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
    from openmm_se3.data.load import Source

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
