"""The arithmetic of the benchmarks of organic molecules, on small files."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule

from openmm_se3.data.labeling.molecules import key_hash, molecule_from_smiles
from openmm_se3.units import EV_TO_KCAL_PER_MOL, HARTREE_TO_EV

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks/organic"))
import interactions  # noqa: E402
import molecules  # noqa: E402
import torsions  # noqa: E402


def write_scan(path, smiles, elements, energies, charge=0):
    frames = [
        {
            "smiles": smiles,
            "elements": elements,
            "coordinates": [[0.0, 0.0, 1.1 * i] for i in range(len(elements))],
            "charge": charge,
            "E[wB97X-D3BJ/def2-TZVPD](Ha)": energy,
        }
        for energy in energies
    ]
    path.write_text(json.dumps(frames))


def test_scans_are_read_without_ions_other_elements_and_excluded_ones(tmp_path):
    write_scan(tmp_path / "a.json", "CO", ["C", "O"], [-1.0, -1.1])
    write_scan(tmp_path / "b.json", "C[O-]", ["C", "O"], [-1.0], charge=-1)
    write_scan(tmp_path / "c.json", "C[SiH3]", ["C", "Si"], [-1.0])
    write_scan(tmp_path / "d.json", "CC", ["C", "C"], [-1.0])
    ethane = key_hash(molecule_from_smiles("CC").connectivity)
    (scan,) = torsions.read_scans(tmp_path, frozenset([ethane]))
    assert [a.info["name"] for a in scan] == ["a", "a"]
    assert scan[1].info["reference"] == pytest.approx(-1.1 * HARTREE_TO_EV)


def test_errors_of_scans_are_about_the_mean_of_each(tmp_path):
    write_scan(tmp_path / "a.json", "CO", ["C", "O"], [0.0, 0.01, 0.02])
    write_scan(tmp_path / "b.json", "CN", ["C", "N"], [5.0, 5.0])
    scans = torsions.read_scans(tmp_path, frozenset())
    reference = np.array([a.info["reference"] for scan in scans for a in scan])
    # Another zero for each molecule is no error; half of the first barrier is.
    found = reference + np.array([3.0, 3.0, 3.0, 7.0, 7.0])
    errors = torsions.errors_of(scans, found)
    assert np.abs(np.concatenate(errors)).max() < 1e-9
    found[2] -= 0.3
    first, second = torsions.errors_of(scans, found)
    expected = EV_TO_KCAL_PER_MOL * np.array([0.1, 0.1, -0.2])
    assert first == pytest.approx(expected)
    assert np.abs(second).max() < 1e-9


def test_interaction_energies_are_of_the_named_parts(tmp_path, monkeypatch):
    water = molecule("H2O")
    lines = ["6", "charge=0 charge_a=0 charge_b=0 selection_a=1-3 selection_b=4-6"]
    lines[1] += " scaling=0.95 benchmark_Eint=-4.5 benchmark_unit=kcal/mol group=OH-O"
    for shift in (0.0, 3.0):
        for symbol, (x, y, z) in zip(water.symbols, water.positions, strict=True):
            lines.append(f"{symbol} {x + shift} {y} {z}")
    (tmp_path / "one.xyz").write_text("\n".join(lines) + "\n")
    lines[1] = lines[1].replace("charge_a=0", "charge_a=1")
    (tmp_path / "ion.xyz").write_text("\n".join(lines) + "\n")
    (dimer,) = interactions.read_dimers(tmp_path)
    assert dimer.info["reference"] == -4.5
    assert dimer.info["scaling"] == 0.95

    def energies(structures, method):
        # -1 eV for each pair of oxygens, 10 eV a molecule.
        oxygens = np.array([list(a.symbols).count("O") for a in structures])
        return 10.0 * oxygens - (oxygens == 2)

    monkeypatch.setattr(interactions, "energies", energies)
    (found,) = interactions.interaction_energies([dimer], "any")
    assert found == pytest.approx(-EV_TO_KCAL_PER_MOL)


def test_lists_have_no_atom_maps_and_no_salts():
    lines = ["[CH3:1][OH:2] name", "# comment", "C.[Na+]", "", "CCO", "CCO again"]
    assert molecules.smiles_of(lines) == {"[CH3][OH]", "CCO"}
