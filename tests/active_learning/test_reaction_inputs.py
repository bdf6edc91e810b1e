"""Reactions: collective variables, their ranges, and the structures of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from proton_transfer import minimum, transfer
from rich.console import Console

from openmm_se3.active_learning import learn
from openmm_se3.active_learning.reaction.inputs import read_inputs
from openmm_se3.active_learning.reaction.ranges import (
    Metadynamics,
    biased,
    changing_bonds,
)
from openmm_se3.active_learning.reaction.variables import (
    copy_files,
    read_variables,
    values,
)
from openmm_se3.active_learning.settings import Settings
from openmm_se3.active_learning.structures import System, initial_structures
from openmm_se3.molecules import bonds_by_distance

pytest.importorskip("rdkit")

QUIET = Console(quiet=True)
# Hydrogens first, so that the campaign's order is another one.
SYMBOLS = ("H", "O", "C", "O")
FILE = """
import openmm
from openmm import app

def variables(topology):
    index = {atom.name: atom.index for atom in topology.atoms()}
    force = openmm.CustomBondForce("2*r")
    force.addBond(index["H1"], index["O4"], [])
    return RETURNED
"""


def write_xyz(path: Path, frames: list[tuple[tuple[str, ...], np.ndarray]]) -> Path:
    """Write structures."""
    lines = []
    for symbols, positions in frames:
        lines += [str(len(symbols)), ""]
        lines += [
            f"{s} " + " ".join(f"{v:.8f}" for v in x)
            for s, x in zip(symbols, positions, strict=True)
        ]
    path.write_text("\n".join(lines) + "\n")
    return path


def formic() -> np.ndarray:
    """Return formate with a proton at its first oxygen, in the order of SYMBOLS."""
    return np.array([[-1.0, 1.4, 0], [-1.1, 0.45, 0], [0, 0, 0], [1.1, 0.6, 0.1]])


def four_atoms(**changes: Any) -> System:
    """Return these four atoms as a campaign orders them."""
    order = np.array([1, 3, 2, 0])
    return transfer(
        numbers=np.array([8, 8, 6, 1]),
        bonds=np.array([[0, 2], [1, 2], [0, 3]]),
        minima=(formic()[order],),
        names=("O2", "O4", "C3", "H1"),
        places=(2, 4, 3, 1),
        changing=(),
        **changes,
    )


def length(x: np.ndarray, i: int, j: int) -> float:
    """Return a distance."""
    return float(np.linalg.norm(x[i] - x[j]))


def test_variables_are_those_of_the_atoms_that_the_input_names() -> None:
    x = formic()
    system = four_atoms()
    (frame,) = system.minima
    cosine = np.dot(x[0] - x[1], x[2] - x[1]) / length(x, 0, 1) / length(x, 2, 1)
    torsion = np.degrees(
        np.arctan2(
            np.dot(
                np.cross(
                    np.cross(a := x[1] - x[0], b := x[2] - x[1]),
                    np.cross(b, c := x[3] - x[2]),
                ),
                b / np.linalg.norm(b),
            ),
            np.dot(np.cross(a, b), np.cross(b, c)),
        )
    )
    for text, expected in (
        ("distance:O4-H1", length(x, 3, 0)),
        ("distance:4-1", length(x, 3, 0)),
        ("difference:O2-H1,O4-H1", length(x, 1, 0) - length(x, 3, 0)),
        ("sum:O2-H1,C3-O4", length(x, 1, 0) + length(x, 2, 3)),
        ("angle:H1-O2-C3", np.degrees(np.arccos(cosine))),
        ("dihedral:H1-O2-C3-O4", torsion),
    ):
        variables = read_variables([text], system)
        assert values(variables, frame[None]) == pytest.approx(
            np.array([[expected]]), abs=1e-5
        ), text
    two = read_variables(["distance:O4-H1", "distance:O2-H1"], system)
    assert values(two, np.stack([frame, 2 * frame])).shape == (2, 2)
    assert changing_bonds(two) == [(1, 3), (0, 3)]


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["distance:O1-H9"], "O1"),  # atom 1 is hydrogen
        (["distance:O2-H7"], "H7"),
        (["distance:O2-X"], "X"),
        (["distance:O2"], "distance:A-B"),
        (["distance:O2-H1,O4-H1"], "distance:A-B"),
        (["difference:O2-H1"], "difference:A-B,C-D"),
        (["angle:O2-H1"], "angle:A-B-C"),
        (["dihedral:O2-H1-C3"], "dihedral:A-B-C-D"),
        (["distance:O2-O2"], "twice"),
        (["length:O2-H1"], "length:O2-H1"),
        (["O2-H1"], "O2-H1"),
        (["distance:O2-H1", "distance:O4-H1", "distance:O2-C3"], "3 collective"),
        (["distance:O2-H1", "distance:O2-H1"], "twice"),
        (["distance:O2-H1", "dihedral:H1-O2-C3-O4"], "dihedral"),
    ],
)
def test_variables_that_cannot_be_are_refused(texts: list[str], named: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_variables(texts, four_atoms())
    assert named in str(caught.value)


def test_message_lists_the_atoms_in_the_order_of_the_input() -> None:
    with pytest.raises(ValueError) as caught:
        read_variables(["distance:O1-H9"], four_atoms())
    assert "H1 O2 C3 O4" in str(caught.value)


def test_names_of_a_pdb_file_win(tmp_path: Path) -> None:
    system = four_atoms()
    named = four_atoms()
    named = System(**{**vars(named), "names": ("OA", "O1", "C1", "HA")})
    expected = values(
        read_variables(["distance:O4-H1"], system), system.minima[0][None]
    )
    found = values(read_variables(["distance:O1-HA"], named), system.minima[0][None])
    assert found == pytest.approx(expected)


def test_file_gives_variables(tmp_path: Path) -> None:
    system = four_atoms()
    expected = 2 * length(formic(), 0, 3) / 10.0  # OpenMM's nm
    path = tmp_path / "mine.py"
    path.write_text(FILE.replace("RETURNED", "[force]"))
    (variable,) = read_variables(["mine.py"], system, tmp_path)
    assert values([variable], system.minima[0][None])[0, 0] == pytest.approx(expected)
    # One minimum says nothing about the range of what is not known.
    with pytest.raises(ValueError, match="mine"):
        biased([variable], system, Metadynamics())
    path.write_text(
        FILE.replace("RETURNED", "[app.BiasVariable(force, 0.1, 0.9, 0.02)]")
    )
    (one,) = biased(
        read_variables(["mine.py"], system, tmp_path), system, Metadynamics()
    )
    assert (one.low, one.high, one.width) == (0.1, 0.9, 0.02)
    folder = tmp_path / "campaign"
    folder.mkdir()
    assert copy_files([str(path), "distance:O2-H1"], folder) == (
        "bias-1.py",
        "distance:O2-H1",
    )
    assert (folder / "bias-1.py").read_text() == path.read_text()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("x = 1", "variables"),
        ("def variables(topology):\n    return []", "nothing"),
        ("def variables(topology):\n    return [1.0]", "float"),
        ("def variables(topology):\n    raise KeyError('H12')", "H12"),
        ("def variables(", "bias.py"),
        (FILE.replace("RETURNED", "[force] * 3"), "3 collective"),
        (FILE.replace('index["O4"]', "77").replace("RETURNED", "[force]"), "OpenMM"),
    ],
)
def test_file_that_gives_none_is_refused(text: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "bias.py").write_text(text)
    with pytest.raises(ValueError) as caught:
        read_variables(["bias.py"], four_atoms(), tmp_path)
    assert named in str(caught.value)
    with pytest.raises(FileNotFoundError):
        read_variables(["none.py"], four_atoms(), tmp_path)


def test_ranges_follow_from_the_minima() -> None:
    system = transfer()
    variables = read_variables(["difference:O1-H3,O2-H3"], system)
    (both,) = biased(variables, system, Metadynamics())
    assert (both.low, both.high) == pytest.approx((-0.9, 0.9))
    # One minimum: from where a bond is short to where it is broken, on both sides.
    (one,) = biased(variables, transfer(minima=system.minima[:1]), Metadynamics())
    assert one.low == pytest.approx(-one.high) and one.high > 1.2
    options = Metadynamics.of({"minimum": [-1.0], "maximum": [2], "width": [0.2]})
    (given,) = biased(variables, system, options)
    assert (given.low, given.high, given.width) == (-1.0, 2.0, 0.2)
    grid = given.bias_variable()
    assert grid.minValue < -0.1 and grid.maxValue > 0.2  # nm, beyond the walls


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"bias_factor": 1.0}, "bias_factor"),
        ({"height": 0.0}, "height"),
        ({"width": [0.1, 0.1]}, "width"),
        ({"minimum": [3.0]}, "range"),
        ({"spacing": 0}, "spacing"),
        ({"hight": 1.0}, "hight"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, Any], named: str) -> None:
    system = transfer()
    variables = read_variables(["difference:O1-H3,O2-H3"], system)
    with pytest.raises(ValueError) as caught:
        biased(variables, system, Metadynamics.of(given))
    assert named in str(caught.value)


def test_structures_of_a_file_are_the_minima_of_one_system(tmp_path: Path) -> None:
    moved = formic()
    moved[0] = [1.6, 1.4, 0.1]  # the proton at the other oxygen
    path = write_xyz(tmp_path / "a.xyz", [(SYMBOLS, formic()), (SYMBOLS, moved)])
    settings = Settings(
        str(path), bias=("difference:O2-H1,O4-H1",), reference="gfn2", charge=-1
    )
    inputs = read_inputs(settings)
    (system,) = inputs.systems
    assert system.symbols == ["O", "O", "C", "H"]
    assert len(system.minima) == 2 and system.reaction
    assert system.changing == ((0, 3), (1, 3))
    # Neither bond of the proton has to last, those of carbon have to.
    frames = np.stack([system.minima[0], system.minima[1]])
    assert system.intact(frames).all()
    torn = frames.copy()
    torn[:, 1] += [5.0, 0, 0]
    assert not system.intact(torn).any()
    lost = frames.copy()
    lost[:, 3] += [0, 9.0, 0]
    assert not system.intact(lost).any()
    assert system.bonds_of(system.minima[1]).tolist() == sorted(
        bonds_by_distance(system.symbols, system.minima[1], None).tolist()
    )
    made = initial_structures([], [system], 12, (300.0, 450.0, 600.0), 1)
    assert len(made) == 12
    sides = values(inputs.variables, np.stack([s.positions for s in made]))[:, 0]
    at_minima = values(inputs.variables, frames)[:, 0]
    # Both minima, and structures between them.
    assert (np.abs(sides - at_minima[0]) < 0.25).sum() >= 2
    assert (np.abs(sides - at_minima[1]) < 0.25).sum() >= 2
    assert (np.abs(sides - at_minima.mean()) < 0.5).sum() >= 2


def test_minima_of_other_atoms_are_refused(tmp_path: Path) -> None:
    swapped = ("O", "H", "C", "O")
    other = ("H", "O", "C", "S")
    hydroxide = (("O", "H"), minimum(1.0)[:2])
    for frames, named in (
        ([(SYMBOLS, formic()), (swapped, formic())], "same order"),
        ([(SYMBOLS, formic()), (other, formic())], "CHOS"),
        ([(SYMBOLS, formic()), hydroxide], "HO"),
    ):
        path = write_xyz(tmp_path / "a.xyz", frames)
        with pytest.raises(ValueError) as caught:
            read_inputs(Settings(str(path), bias=("distance:O2-H1",), charge=-1))
        assert named in str(caught.value)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"bias": "distance:C1-H9"}, "H9"),
        ({"bias": ["distance:O2-H3"] * 2}, "twice"),
        ({"bias": "distance:O2-H5", "with_water": True}, "with_water"),
        ({"metadynamics": {"height": 1.0}}, "bias"),
        ({"bias": "distance:C1-H5", "metadynamics": {"hight": 1.0}}, "hight"),
        ({"bias": "missing.py"}, "missing.py"),
    ],
)
def test_impossible_reaction_is_refused_at_once(
    options: dict[str, Any], named: str, tmp_path: Path
) -> None:
    """In SMILES the hydrogens are behind: methanol is C1 O2 H3 H4 H5 H6."""
    folder = tmp_path / "campaign"
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        learn("CO", folder, console=QUIET, **{"reference": "gfn2", **options})
    assert named in str(caught.value)
    assert not folder.exists()
