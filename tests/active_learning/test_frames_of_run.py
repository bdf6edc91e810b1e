"""Frames of a simulation that are to be learned: which molecule, in which order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spring_committee import WATER, Springs, water

from openmm_se3.active_learning.campaign import Campaign
from openmm_se3.active_learning.committee import Atoms, Predicted
from openmm_se3.active_learning.frames_of_run import given_structures, take_run
from openmm_se3.active_learning.structures import make_systems
from openmm_se3.data.labeling.molecules import molecule_from_smiles


class Unsure(Springs):
    """Members whose forces are different multiples of the positions."""

    def predict(self, atoms: Atoms, positions: np.ndarray) -> Predicted:
        """Return energies and forces of two members, of any molecule."""
        forces = np.stack([positions, 2.0 * positions]).reshape(2, -1, 3)
        return Predicted(np.zeros((2, atoms.count)), forces)


def test_frames_of_a_run_are_kept_in_the_order_of_the_campaign(tmp_path: Path) -> None:
    """The run has its hydrogens first; its most uncertain frame comes first."""
    mdtraj = pytest.importorskip("mdtraj")
    run = tmp_path / "run"
    run.mkdir()
    topology = mdtraj.Topology()
    residue = topology.add_residue("MOL", topology.add_chain())
    for symbol in ("H", "O", "H"):
        element = mdtraj.element.get_by_symbol(symbol)
        topology.add_atom(symbol, element, residue)
    stretch = np.array([1.0, 1.02, 1.04, 1.06])[:, None, None]
    frames = stretch * WATER[[1, 0, 2]]
    trajectory = mdtraj.Trajectory(frames / 10.0, topology)
    trajectory[0].save_pdb(str(run / "topology.pdb"))
    trajectory.save_dcd(str(run / "trajectory.dcd"))

    class Deviating(Springs):
        def predict(self, atoms: Atoms, positions: np.ndarray) -> Predicted:
            self.pull = float(np.linalg.norm(positions[1] - positions[0]))
            return super().predict(atoms, positions)

    campaign = Campaign(tmp_path / "campaign")
    take_run(campaign, run, [water()], Deviating(), 3)  # type: ignore[arg-type]
    found = given_structures(campaign, 3, water(), 0)
    assert len(found) == 4
    assert found[0].numbers.tolist() == [8, 1, 1]
    expected = 1.06 * (WATER - WATER.mean(axis=0))
    assert np.allclose(found[0].positions, expected, atol=1e-4)
    assert given_structures(campaign, 2, water(), 0) == []
    assert given_structures(campaign, 3, water(), 1) == []
    other = water(name="S", numbers=np.array([16, 1, 1]))
    with pytest.raises(ValueError) as caught:
        take_run(campaign, run, [other], Springs(), 3)  # type: ignore[arg-type]
    assert "S" in str(caught.value)
    with pytest.raises(FileNotFoundError):
        take_run(campaign, tmp_path, [water()], Springs(), 3)  # type: ignore[arg-type]


def write_run(folder: Path, symbols: list[str], frames: np.ndarray) -> Path:
    """Write what a run leaves: topology and trajectory [n_frames, n_atoms, 3], A."""
    import mdtraj

    folder.mkdir()
    topology = mdtraj.Topology()
    residue = topology.add_residue("MOL", topology.add_chain())
    for symbol in symbols:
        topology.add_atom(symbol, mdtraj.element.get_by_symbol(symbol), residue)
    trajectory = mdtraj.Trajectory(frames / 10.0, topology)
    trajectory[0].save_pdb(str(folder / "topology.pdb"))
    trajectory.save_dcd(str(folder / "trajectory.dcd"))
    return folder


def test_frames_of_a_run_are_matched_by_bonds(tmp_path: Path) -> None:
    """Another order of the heavy atoms is put right, an isomer is refused."""
    (ethanol,) = make_systems([molecule_from_smiles("CCO")], False, 1)
    shuffled = np.random.default_rng(4).permutation(9)
    minimum = ethanol.minima[0]
    symbols = [ethanol.symbols[i] for i in shuffled]
    frames = np.stack([minimum, 1.01 * minimum, 1.02 * minimum])[:, shuffled]
    run = write_run(tmp_path / "run", symbols, frames)
    campaign = Campaign(tmp_path / "campaign")
    unsure: Any = Unsure()
    assert take_run(campaign, run, [ethanol], unsure, 0) == 3
    found = given_structures(campaign, 0, ethanol, 0)
    assert len(found) == 3
    for structure in found:
        assert structure.numbers.tolist() == ethanol.numbers.tolist()
        assert ethanol.intact(structure.positions[None])[0]
    (ether,) = make_systems([molecule_from_smiles("COC")], False, 1)
    frames_of_ether = np.stack([ether.minima[0], 1.02 * ether.minima[0]])
    other = write_run(tmp_path / "other", ether.symbols, frames_of_ether)
    with pytest.raises(ValueError, match="another molecule"):
        take_run(campaign, other, [ethanol], unsure, 1)
    assert take_run(campaign, other, [ethanol, ether], unsure, 1) == 2
    assert given_structures(campaign, 1, ethanol, 0) == []
    assert len(given_structures(campaign, 1, ether, 1)) == 2
    torn = frames.copy()
    torn[:, 0] += 9.0
    torn[0] = frames[0]
    run = write_run(tmp_path / "torn", symbols, np.stack([frames[0], *torn[1:]]))
    assert take_run(campaign, run, [ethanol], unsure, 2) == 1
    run = write_run(tmp_path / "all torn", symbols, torn[1:])
    # Without bonds in the topology these are told by the first frame.
    with pytest.raises(ValueError, match="another molecule"):
        take_run(campaign, run, [ethanol], unsure, 3)
    text = (run / "topology.pdb").read_text()
    pairs = {(int(a), int(b)) for a, b in np.argsort(shuffled)[ethanol.bonds]}
    rows = "".join(f"CONECT{a + 1:5}{b + 1:5}\n" for a, b in pairs)
    (run / "topology.pdb").write_text(text.replace("END\n", rows + "END\n"))
    assert take_run(campaign, run, [ethanol], unsure, 3) == 0
    assert given_structures(campaign, 3, ethanol, 0) == []
