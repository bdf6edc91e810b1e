"""Settings of metadynamics: ranges and widths of the variables, height of the hills."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from openmm import app

from openmm_se3.active_learning.reaction.variables import (
    WIDTHS,
    Variable,
    values,
)
from openmm_se3.active_learning.structures import System
from openmm_se3.config import from_dict
from openmm_se3.elements import COVALENT_RADII

# Of a distance in sums of covalent radii, where one minimum alone says nothing.
SHORT, LONG = 0.8, 2.5
LEAST_MARGIN = {"distance": 0.4, "angle": 30.0}  # A, degrees, beyond the minima
MARGIN = 0.3  # of the difference of the minima
STRAIGHT = (10.0, 170.0)  # degrees; an angle has no derivative where it is straight
BEYOND = 6.0  # widths of the grid beyond the walls
FILE_POINTS = 20.0  # widths of a variable of a file, of its range


@dataclasses.dataclass(frozen=True)
class Metadynamics:
    """Settings of metadynamics.

    Attributes:
        height: First height of a Gaussian, kcal/mol; None is k T.
        bias_factor: The variables are sampled as if at this many times the temperature.
        spacing: Steps between Gaussians, 0.5 fs each.
        steps: Steps of each of the two runs of the free energy; None is 20 times those
            of a walker.
        width: Width (standard deviation) of the Gaussians for each variable, A or
            degrees; empty for 0.1 A, 8 degrees (angle) and 12 degrees (dihedral).
        minimum: Least value of each variable, A or degrees; empty takes it from the
            structures.
        maximum: Largest value of each variable.
    """

    height: float | None = None
    bias_factor: float = 10.0
    spacing: int = 40
    steps: int | None = None
    width: tuple[float, ...] = ()
    minimum: tuple[float, ...] = ()
    maximum: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: A value is out of range.
        """
        if self.height is not None and not self.height > 0.0:
            raise ValueError(f"height must be positive, got {self.height:g}")
        if not self.bias_factor > 1.0:
            raise ValueError(f"bias_factor must be above 1, got {self.bias_factor:g}")
        for name in ("spacing", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if any(not width > 0.0 for width in self.width):
            raise ValueError(f"width must be positive, got {list(self.width)}")

    @classmethod
    def of(cls, given: dict[str, Any]) -> Metadynamics:
        """Return the settings that a campaign names, the others at their defaults."""
        return from_dict(cls, given, "metadynamics")


@dataclasses.dataclass(frozen=True)
class Biased:
    """A collective variable and where it is biased.

    Attributes:
        variable: The variable.
        low, high: Least and largest value, A or degrees.
        width: Width of the Gaussians.
    """

    variable: Variable
    low: float
    high: float
    width: float

    def bias_variable(self) -> app.BiasVariable:
        """Return what OpenMM's Metadynamics takes; its grid goes beyond the walls."""
        scale, beyond = self.variable.scale, BEYOND * self.width
        if self.variable.periodic:
            beyond = 0.0
        return app.BiasVariable(
            copy.deepcopy(self.variable.force),
            scale * (self.low - beyond),
            scale * (self.high + beyond),
            scale * self.width,
            self.variable.periodic,
        )


def biased(
    variables: Sequence[Variable], system: System, options: Metadynamics
) -> list[Biased]:
    """Return the variables with ranges and widths.

    Args:
        variables: The variables.
        system: The molecule; the values at its minima decide.
        options: What is given wins.

    Raises:
        ValueError: A range cannot be found or is not given for each variable.
    """
    for name in ("width", "minimum", "maximum"):
        given = len(getattr(options, name))
        if given not in (0, len(variables)):
            raise ValueError(
                f"metadynamics: {name} has {given} values for {len(variables)} "
                "collective variables"
            )
    table = values(variables, np.stack(system.minima))
    found = []
    for index, variable in enumerate(variables):
        low, high, width = _range(variable, table[:, index], system)
        low = options.minimum[index] if options.minimum else low
        high = options.maximum[index] if options.maximum else high
        width = options.width[index] if options.width else width
        if not (np.isfinite([low, high, width]).all() and high - low > 2.0 * width):
            raise ValueError(
                f"bias {variable.name}: the range from {low:g} to {high:g} "
                f"{variable.unit} is too narrow for Gaussians of width {width:g}; give "
                "metadynamics another minimum, maximum or width"
            )
        found.append(Biased(variable, float(low), float(high), float(width)))
    return found


def _range(
    variable: Variable, at_minima: np.ndarray, system: System
) -> tuple[float, float, float]:
    """Return least and largest value, and width."""
    if variable.limits is not None:
        low, high, width = variable.limits
        return low, high, width
    if variable.periodic:
        return -180.0, 180.0, WIDTHS[variable.kind]
    low, high = float(at_minima.min()), float(at_minima.max())
    span = high - low
    if variable.kind == "file":
        if span < 1e-6:
            raise ValueError(
                f"bias {variable.name}: its range does not follow from one minimum; "
                "return a BiasVariable, or give a structure of the product too"
            )
        return low - MARGIN * span, high + MARGIN * span, span / FILE_POINTS
    width = WIDTHS[variable.kind]
    if span > 3.0 * width:
        margin = max(LEAST_MARGIN[variable.kind], MARGIN * span)
        low, high = low - margin, high + margin
    elif variable.kind == "distance":
        radii = [COVALENT_RADII[symbol] for symbol in system.symbols]
        sums = [(radii[i] + radii[j], sign) for i, j, sign in variable.pairs]
        ends = [
            sum(sign * size * (a if sign > 0.0 else b) for size, sign in sums)
            for a, b in ((SHORT, LONG), (LONG, SHORT))
        ]
        low, high = min(ends[0], low), max(ends[1], high)
    else:
        low, high = STRAIGHT
    if variable.kind == "angle":
        low, high = max(low, STRAIGHT[0]), min(high, STRAIGHT[1])
    return low, high, width


def changing_bonds(variables: Sequence[Variable]) -> list[tuple[int, int]]:
    """Return the pairs of atoms whose distance is biased: their bond may break."""
    return [
        (min(i, j), max(i, j)) for variable in variables for i, j, _ in variable.pairs
    ]
