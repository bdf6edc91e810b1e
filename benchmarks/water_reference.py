"""DFT reference of the water monomer and dimer, for ``water_accuracy.py``.

    python benchmarks/water_reference.py

Writes ``benchmarks/reference/water_dft.json``: minima, harmonic frequencies, binding
energy and rigid dimer curves at the level of theory of the shipped model's labels.
Takes about fifteen minutes on one core; a run that was stopped goes on where it was.
Binding energies are not corrected for basis-set superposition, like the labels.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from water_geometry import (
    WATER,
    bond_lengths_and_angle,
    cyclic_dimer,
    find_minimum,
    finite_difference_hessian,
    frequencies,
    hydrogen_bonded_dimer,
    monomer_start,
)

from openmm_se3.data.labeling.dft import build_molecule, converge, label_frame
from openmm_se3.data.labeling.label import PROGRAMS
from openmm_se3.data.level_of_theory import LevelOfTheory
from openmm_se3.files import atomic_write
from openmm_se3.units import BOHR_TO_ANGSTROM, EV_TO_KCAL_PER_MOL, HARTREE_TO_EV
from openmm_se3.version import installed_versions

OUTPUT = Path(__file__).parent / "reference" / "water_dft.json"
DIMER = np.tile(WATER, 2)
DISTANCES = np.concatenate(
    [np.arange(2.4, 3.21, 0.1), np.arange(3.4, 4.01, 0.2), np.arange(4.25, 8.01, 0.25)]
).round(10)


def dft(
    numbers: np.ndarray, level: LevelOfTheory
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Return a callable: positions [n, 3] (A) to energy (eV) and forces (eV/A)."""

    def function(positions: np.ndarray) -> tuple[float, np.ndarray]:
        label = label_frame(numbers, positions, level)
        return label.energy, label.forces

    return function


def analytic_hessian(positions: np.ndarray, level: LevelOfTheory) -> np.ndarray:
    """Return PySCF's Hessian of one molecule [9, 9], eV/A^2.

    Its grid weights are held fixed: version 2.14 has no response of the weights here.
    The finite differences of forces, stored beside it, contain that response.
    """
    scf = converge(build_molecule(WATER, positions, level), level)
    blocks = scf.Hessian().kernel()  # [atom, atom, axis, axis]
    hessian = blocks.transpose(0, 2, 1, 3).reshape(9, 9)
    return hessian * HARTREE_TO_EV / BOHR_TO_ANGSTROM**2


def monomer_reference(level: LevelOfTheory) -> dict[str, Any]:
    """Return the monomer's minimum and harmonic frequencies."""
    function = dft(WATER, level)
    energy, positions = find_minimum(function, monomer_start())
    first, second, angle = bond_lengths_and_angle(positions)
    differences = finite_difference_hessian(function, positions)
    return {
        "positions": positions.tolist(),
        "energy": energy,
        "oh_length": (first + second) / 2.0,
        "hoh_angle": angle,
        "frequencies": frequencies(
            analytic_hessian(positions, level), WATER, 3
        ).tolist(),
        "frequencies_finite_differences": frequencies(differences, WATER, 3).tolist(),
    }


def dimer_reference(level: LevelOfTheory, monomer_energy: float) -> dict[str, Any]:
    """Return the minimum of the dimer."""
    energy, positions = find_minimum(dft(DIMER, level), cyclic_dimer())
    return {
        "positions": positions.tolist(),
        "energy": energy,
        "oo_distance": float(np.linalg.norm(positions[3] - positions[0])),
        "binding_energy": 2.0 * monomer_energy - energy,
    }


def dimer_curve(
    first: np.ndarray, second: np.ndarray, level: LevelOfTheory
) -> dict[str, Any]:
    """Return the interaction energy of two rigid molecules along their O-O axis.

    Args:
        first: Molecule O, H, H [3, 3], A.
        second: The other one; its oxygen gives the direction.
        level: Level of theory.
    """
    direction = (second[0] - first[0]) / np.linalg.norm(second[0] - first[0])
    frames = [
        np.concatenate([first, second - second[0] + first[0] + distance * direction])
        for distance in DISTANCES
    ]
    apart = sum(dft(WATER, level)(molecule)[0] for molecule in (first, second))
    labels = [label_frame(DIMER, frame, level) for frame in frames]
    return {
        "distances": DISTANCES.tolist(),
        "positions": [frame.tolist() for frame in frames],
        "interaction_energies": [label.energy - apart for label in labels],
        "forces": [label.forces.tolist() for label in labels],
    }


class Reference:
    """The file with what is finished; each part is written as soon as it is there.

    Args:
        path: The JSON file; parts of the same level of theory in it are kept.
        level: Level of theory.
    """

    def __init__(self, path: Path, level: LevelOfTheory) -> None:
        self.path = path
        self.content: dict[str, Any] = {
            "level_of_theory": dataclasses.asdict(level),
            "programs": installed_versions(PROGRAMS),
            "units": {"length": "angstrom", "energy": "eV", "frequency": "1/cm"},
        }
        if path.is_file():
            before = json.loads(path.read_text())
            if before["level_of_theory"] == self.content["level_of_theory"]:
                self.content = before

    def part(
        self, section: str, name: str, compute: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Return a part of the file, computed if it is not there yet."""
        parts = self.content.setdefault(section, {})
        if name not in parts:
            parts[name] = compute()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.path) as temporary:
                temporary.write_text(json.dumps(self.content, indent=1) + "\n")
        found: dict[str, Any] = parts[name]
        return found


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=OUTPUT)
def main(out: Path) -> None:
    """Compute what is missing of the DFT reference of water."""
    console = Console()
    level = LevelOfTheory()
    reference = Reference(out, level)
    monomer = reference.part("monomers", "minimum", lambda: monomer_reference(level))
    console.print(
        f"monomer: O-H {monomer['oh_length']:.5f} A, angle {monomer['hoh_angle']:.3f}, "
        f"frequencies {np.round(monomer['frequencies'], 1)} 1/cm"
    )
    dimer = reference.part(
        "dimers", "minimum", lambda: dimer_reference(level, monomer["energy"])
    )
    console.print(
        f"dimer: O-O {dimer['oo_distance']:.4f} A, binding energy "
        f"{dimer['binding_energy'] * EV_TO_KCAL_PER_MOL:.3f} kcal/mol"
    )
    alone = monomer_start()
    # Both C2 axes along z: the dipoles point the same way along the O-O axis.
    above = alone + np.array([0.0, 0.0, 3.0])
    bound, minimum = hydrogen_bonded_dimer(), np.array(dimer["positions"])
    pairs = {
        "hydrogen bond": (bound[:3], bound[3:]),
        "cyclic minimum": (minimum[:3], minimum[3:]),
        "aligned dipoles": (alone, above),
    }
    for name, (first, second) in pairs.items():
        compute = functools.partial(dimer_curve, first, second, level)
        reference.part("curves", name, compute)
        console.print(f"curve, {name}: done")


if __name__ == "__main__":
    main()
