"""Units and signs of labels are checked."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from data_files import ROOT, by_size

from openmm_se3.data.checks.units import (
    require_plausible,
    strain_ratio,
    unit_checks,
)
from openmm_se3.data.dataset import Dataset
from openmm_se3.data.frames import Frame, Frames
from openmm_se3.data.load import (
    read_datasets,
)
from openmm_se3.data.self_energies import least_squares
from openmm_se3.units import BOHR_TO_ANGSTROM, HARTREE_TO_EV


def scaled(frames: list[Frame], **factors: float) -> Frames:
    return Frames.of(
        dataclasses.replace(
            f,
            positions=f.positions * factors.get("positions", 1.0),
            energy=f.energy * factors.get("energy", 1.0),
            forces=f.forces * factors.get("forces", 1.0),
        )
        for f in frames
    )


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"forces": -1.0}, "gradient was read as the force"),
        (
            {"forces": 1.0 / HARTREE_TO_EV},
            "forces in hartree/angstrom read as eV/angstrom",
        ),
        ({"forces": 23.06}, "forces in kcal/mol/angstrom read as eV/angstrom"),
        ({"forces": HARTREE_TO_EV}, "forces in eV/angstrom read as hartree/angstrom"),
        (
            {"forces": BOHR_TO_ANGSTROM},
            "forces in hartree/bohr read as hartree/angstrom",
        ),
        ({"forces": 3e3}, "fits no mistake of units"),
        ({"positions": 0.1}, "positions in nm were read as A"),
        ({"positions": 1.0 / BOHR_TO_ANGSTROM}, "positions in bohr were read as A"),
        ({"energy": 1.0 / HARTREE_TO_EV}, "energies in hartree read as eV"),
        ({"energy": 23.06}, "energies in kcal/mol read as eV"),
        ({"energy": 627.5}, "fits energies in kcal/mol read as hartree[^ ]"),
    ],
)
def test_wrong_units_and_signs_are_refused(
    frames: list[Frame], factors: dict[str, float], message: str
) -> None:
    monomers = by_size(frames)[3]
    require_plausible(scaled(monomers))
    with pytest.raises(ValueError, match=message):
        require_plausible(scaled(monomers, **factors))


def test_wrong_energies_without_forces_are_refused_by_their_fit() -> None:
    names = [ROOT / f"models/water/data/water{n}.h5" for n in (1, 2)]
    frames = read_datasets(names).frames

    def checked(factor: float) -> None:
        alone = Frames.of(
            dataclasses.replace(f, forces=None, energy=factor * f.energy)
            for f in frames
        )
        require_plausible(alone, least_squares(alone).energies)

    checked(1.0)
    with pytest.raises(ValueError, match="energy against isolated atoms.* is 20"):
        checked(627.5)


@pytest.mark.parametrize("factor", [1.0 / HARTREE_TO_EV, 23.06])
def test_wrong_energies_of_structures_unlike_each_other(factor: float) -> None:
    hexamers = list(read_datasets([ROOT / "models/water/data/water6.h5"]).frames[::3])
    found = {f.name: f for f in unit_checks(scaled(hexamers))}
    work = found["energy differences over the work of the forces"]
    assert work.verdict == "not checked"
    strain = found["spread of energies over that of the strain"]
    assert strain.verdict == "pass"
    wrong = {f.name: f for f in unit_checks(scaled(hexamers, energy=factor))}
    assert wrong[strain.name].value == pytest.approx(factor * strain.value)
    assert wrong[strain.name].verdict == "FAIL"


def test_energies_that_strain_does_not_explain_are_not_judged(
    frames: list[Frame],
) -> None:
    rng = np.random.default_rng(0)
    shuffled = [dataclasses.replace(f, energy=rng.normal(scale=100.0)) for f in frames]
    assert strain_ratio(frames, 50.0) is not None
    assert strain_ratio(shuffled, 50.0) is None
    assert strain_ratio(frames, None) is strain_ratio(frames, -3.0) is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_positions_that_are_not_finite_are_named(
    frames: list[Frame], value: float
) -> None:
    broken = frames[3]
    positions = broken.positions.copy()
    positions[0, 1] = value
    bad = dataclasses.replace(broken, positions=positions, trajectory="run-7")
    with pytest.raises(ValueError, match="run-7, a position is (nan|inf)"):
        unit_checks(Frames.of([*frames[:3], bad, *frames[4:]]))
    box = 20.0 * np.eye(3)
    box[2, 1] = value
    bad = dataclasses.replace(broken, box=box, trajectory="run-8")
    with pytest.raises(ValueError, match="run-8.* box"):
        unit_checks(Frames.of([*frames[:3], bad, *frames[4:]]))


def test_energies_that_do_not_go_with_the_isolated_atoms(dataset: Dataset) -> None:
    require_plausible(dataset.frames, dataset.self_energies)
    with pytest.raises(ValueError, match="against isolated atoms"):
        require_plausible(dataset.frames, {1: -13.6, 8: -1000.0})


def test_the_checks_see_something(dataset: Dataset) -> None:
    found = unit_checks(dataset.frames, dataset.self_energies)
    assert len(found) == 6 and all(f.value is not None for f in found)
    assert {f.verdict for f in found} == {"pass"}
    assert found[1].value == pytest.approx(50.0, rel=0.3)  # O-H, eV/A^2
    assert found[2].value == pytest.approx(1.0, abs=0.15)
    assert found[3].value == pytest.approx(1.1, abs=0.25)
