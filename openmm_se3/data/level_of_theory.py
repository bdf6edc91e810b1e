"""Level of theory: everything that decides the value of a DFT label."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class LevelOfTheory:
    """Settings of one DFT calculation.

    The defaults reproduce the labels of ANI-1, ANI-1x and COMP6; :data:`NAMED_LEVELS`
    has those of other public data.  A method with "-d3bj" or another version of D3 or
    D4 at its end includes that dispersion correction.  Grid level 4 with the response
    of the grid weights makes the net force vanish and keeps the grid's error below 0.01
    kcal/mol/A.

    Attributes:
        method: Exchange-correlation functional, as PySCF names it.
        basis: Basis set, as PySCF names it.
        cartesian: Cartesian (True) or spherical (False) d and f functions; None takes
            what the basis set was made for, and becomes True or False at once.
        density_fit: Density fitting of Coulomb and exchange integrals.
        grid_level: PySCF integration grid, 0 (coarse) to 9.
        grid_response: Include the response of the grid weights in the forces.
        scf_tolerance: Convergence threshold of the total energy, hartree.
        max_cycles: SCF iterations before a frame counts as not converged.
        charge: Total charge, elementary charges.
        spin: Number of unpaired electrons (PySCF's 2S).

    Raises:
        ValueError: A setting is outside its range.
    """

    method: str = "wb97x"
    basis: str = "6-31g*"
    cartesian: bool | None = None
    density_fit: bool = True
    grid_level: int = 4
    grid_response: bool = True
    scf_tolerance: float = 1e-10
    max_cycles: int = 100
    charge: int = 0
    spin: int = 0

    def __post_init__(self) -> None:
        if not self.method or not self.basis:
            raise ValueError("method and basis must have a name")
        if self.cartesian is None:
            object.__setattr__(self, "cartesian", has_cartesian_d(self.basis))
        if not 0 <= self.grid_level <= 9:
            raise ValueError(f"grid_level must be 0 to 9, got {self.grid_level}")
        if not 0.0 < self.scf_tolerance < 1.0:
            raise ValueError(
                f"scf_tolerance must be between 0 and 1, got {self.scf_tolerance}"
            )
        if self.max_cycles < 1 or self.spin < 0:
            raise ValueError(
                f"max_cycles ({self.max_cycles}) must be positive and spin "
                f"({self.spin}) not negative"
            )

    def to_json(self) -> str:
        """Return the settings as a JSON object with sorted keys."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> LevelOfTheory:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: It is not JSON, or a setting is missing or unknown.
        """
        values = json.loads(text)
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            raise ValueError(f"expected the settings {sorted(names)}, got {values}")
        return cls(**values)

    def __str__(self) -> str:
        return f"{self.method}/{self.basis}"


def has_cartesian_d(basis: str) -> bool:
    """Tell whether a basis set was made with Cartesian d functions (six of them).

    These are Pople's 3-21G, 4-31G, 6-21G and 6-31G with whatever functions are added.
    All others, also 6-311G, have five d functions; Gaussian computes them so, too.
    """
    name = re.sub(r"[-_ ]", "", basis.lower())
    return re.match(r"(321|431|621|631)\(?\+{0,2}\)?g", name) is not None


# Levels of public data, by the name of the data.
NAMED_LEVELS = {
    "ani": LevelOfTheory(),
    "spice": LevelOfTheory("wb97m-d3bj", "def2-tzvppd"),
}


@dataclasses.dataclass(frozen=True)
class PublishedLevel:
    """Level of theory of labels made elsewhere, known by its name only.

    Attributes:
        name: Such as "wB97M-D3(BJ)/def2-TZVPPD".
    """

    name: str

    def to_json(self) -> str:
        """Return the name as a JSON object."""
        return json.dumps(dataclasses.asdict(self))

    def __str__(self) -> str:
        return self.name


Level = LevelOfTheory | PublishedLevel


def read_level(text: str) -> Level:
    """Read a level of theory that was written as JSON.

    Raises:
        ValueError: It is neither the settings of a calculation nor a name.
    """
    values = json.loads(text)
    if isinstance(values, dict) and set(values) == {"name"}:
        return PublishedLevel(str(values["name"]))
    return LevelOfTheory.from_json(text)


def level_name(values: Mapping[str, Any]) -> str:
    """Return the short name of a level of theory in a model's description."""
    return str(values.get("name") or f"{values.get('method')}/{values.get('basis')}")
