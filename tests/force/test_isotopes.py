"""Isotopes are the element with a mass of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from evaluator import evaluate
from openmm import app, unit
from random_model import topology_of

from openmm_se3 import SE3Potential
from openmm_se3.elements import chemical_symbol
from openmm_se3.simulation import ModelRunOptions, read_structure, run_structure

HEAVY = app.element.deuterium.mass.value_in_unit(unit.dalton)


def heavy_water(path: Path, n: int = 2) -> Path:
    """Write D2O molecules as a PDB file, without bonds."""
    with open(path, "w") as file:
        for k in range(n):
            for i, (name, x, y) in enumerate(
                (("O", 0.0, 0.0), ("D1", 0.76, 0.59), ("D2", -0.76, 0.59))
            ):
                file.write(
                    f"HETATM{3 * k + i + 1:5d}  {name:<3} DOD A{k + 1:4d}    "
                    f"{x:8.3f}{y:8.3f}{3.0 * k:8.3f}  1.00  0.00          "
                    f"{name[0]:>2}\n"
                )
        file.write("END\n")
    return path


def test_deuterium_is_hydrogen_of_its_own_mass(
    tmp_path: Path, random_model: Path
) -> None:
    topology, positions = read_structure(heavy_water(tmp_path / "d2o.pdb"))
    potential = SE3Potential(random_model)
    system = potential.createSystem(topology)
    masses = [system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(6)]
    assert masses[1:3] == pytest.approx([HEAVY, HEAVY]) and HEAVY > 2.0
    light = potential.createSystem(topology_of([*"OHHOHH"]))
    energy, forces = evaluate(system, positions)
    expected, expected_forces = evaluate(light, positions)
    assert energy == expected and abs(energy) > 1.0
    np.testing.assert_array_equal(forces, expected_forces)


def test_any_isotope_is_named_by_its_element() -> None:
    tritium = app.Element(1, "tritium", "T3", 3.016 * unit.dalton)
    assert chemical_symbol(tritium) == "H"
    assert chemical_symbol(app.element.deuterium) == "H"
    assert chemical_symbol(app.element.oxygen) == "O"
    assert chemical_symbol(app.element.gold) == "Au"


def test_a_run_and_its_spectrum_keep_the_masses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openmm_se3.analysis import analyze_folder

    monkeypatch.chdir(tmp_path)
    path = heavy_water(tmp_path / "d2o.pdb", 1)
    options = ModelRunOptions(out="run", steps=2000, frame_fs=2.5, equilibration_ps=0.2)
    run_structure(path, options)
    facts = json.loads(Path("run/run.json").read_text())
    assert facts["masses"][1:] == pytest.approx([HEAVY, HEAVY])
    spectrum = analyze_folder("run").spectrum
    assert spectrum is not None
    # Stretches of D2O are near 2,700 and 2,850 cm^-1; those of H2O above 3,600.
    assert 2500.0 < max(spectrum.peaks) < 3100.0
