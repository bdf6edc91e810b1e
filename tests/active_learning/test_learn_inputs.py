"""What a campaign is given: molecules, charges, budgets and a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from openmm_se3.active_learning import learn
from openmm_se3.active_learning.settings import LEAST_FRESH, Settings
from openmm_se3.active_learning.structures import (
    initial_structures,
    make_systems,
    read_input,
)

QUIET = Console(quiet=True)
PAIRS = {
    "acid and base": "CC(=O)O\nCC(=O)[O-]\n",
    "E and Z": "C/C=C/C\nC/C=C\\C\n",
    "zwitterion": "NCC(=O)O\n[NH3+]CC(=O)[O-]\n",
    "tautomers": "Oc1ccccn1\nO=c1cccc[nH]1\n",
}


@pytest.mark.parametrize("pair", PAIRS)
def test_structures_belong_to_their_molecule(pair: str, tmp_path: Path) -> None:
    """The two share a block of the InChIKey, or all of it."""
    path = tmp_path / "two.smi"
    path.write_text(PAIRS[pair])
    molecules = read_input(str(path))
    systems = make_systems(molecules, False, seed=1)
    assert len(systems) == 2
    assert len({system.trajectory for system in systems}) == 2
    made = initial_structures(molecules, systems, 12, (300.0, 450.0, 600.0), 1)
    for system in systems:
        own = [
            s for s in made if s.trajectory.startswith(f"{system.trajectory}-initial")
        ]
        assert len(own) == 6
        for structure in own:
            assert structure.charge == system.charge
            assert np.array_equal(structure.numbers, system.numbers)
            assert system.intact(structure.positions[None])[0]
            bonds = np.sort(system.bonds_of(structure.positions), axis=1)
            lengths = np.linalg.norm(
                structure.positions[bonds[:, 0]] - structure.positions[bonds[:, 1]],
                axis=1,
            )
            assert lengths.max() < 1.8
    positions = np.concatenate([s.positions.ravel() for s in made])
    assert len(np.unique(positions.round(6))) > 0.9 * len(positions)


@pytest.mark.parametrize(
    ("molecule", "charge", "named"),
    [
        ("C", 1, r"its charge is \+0, not \+1"),
        ("C[NH3+]", -1, r"its charge is \+1, not -1"),
        ("[Fe]", 0, "single atom"),
        ("O=O", 0, "triplet"),
        ("[2H]OC", 0, "isotope 2H"),
    ],
)
def test_molecules_that_cannot_be_learned_are_refused(
    molecule: str, charge: int, named: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=named):
        learn(molecule, tmp_path / "a", charge=charge, reference="gfn2", console=QUIET)
    assert not (tmp_path / "a").exists()


def test_an_ion_may_be_given_with_its_charge() -> None:
    assert len(read_input("C[NH3+]", 1)) == 1


@pytest.mark.parametrize("name", ["report.html", "model/model.pt", "data/round-00.h5"])
def test_results_of_something_else_are_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("precious")
    with pytest.raises(FileExistsError, match="of something else"):
        learn("O", tmp_path, reference="gfn2", console=QUIET)
    assert [p.read_text() for p in tmp_path.rglob("*.*")] == ["precious"]


def test_frames_of_a_run_need_a_campaign(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"from_run \(--from\) .* resume it"):
        learn("O", tmp_path / "a", from_run="run", reference="gfn2", console=QUIET)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("members", [1, 9])
def test_committees_that_cannot_be_written_are_refused(members: int) -> None:
    with pytest.raises(ValueError, match="2 to 8"):
        Settings("O", members=members)


def test_every_budget_is_enough_for_the_test_of_a_round() -> None:
    """Else no round could pass."""
    for bias, least, path in (((), 40, 0), (("distance:O1-H2",), 60, 11)):
        for labels in range(least, 400):
            settings = Settings("O", labels=labels, bias=bias)
            assert settings.fresh >= LEAST_FRESH * (3 if bias else 2)
            assert settings.per_round - settings.fresh >= 8
            assert settings.per_round + settings.fresh + path <= labels
        with pytest.raises(ValueError, match=f"fewer than {least}"):
            Settings("O", labels=least - 1, bias=bias)
