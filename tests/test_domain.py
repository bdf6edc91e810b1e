"""What a model was trained on by composition, and what is outside of it."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from random_model import (
    SMALLEST,
    WATER,
    random_checkpoint,
    topology_of,
    write_random_weights,
)

from openmm_se3 import SE3Potential
from openmm_se3.data.domain import data_domain
from openmm_se3.data.frames import Frame, Frames, Texts
from openmm_se3.data.labeling.molecules import molecule_from_smiles
from openmm_se3.description import ModelFileError
from openmm_se3.domain import (
    Compositions,
    Domain,
    OutsideDomainWarning,
    Valences,
    domain_from_dict,
    domain_to_dict,
    outside_domain,
)
from openmm_se3.export import model_of_checkpoint
from openmm_se3.model_file import load_model
from openmm_se3.molecules import bonds_by_distance
from openmm_se3.simulation import (
    ModelRunOptions,
    run_model,
    water_topology,
)

WATERS = Compositions(("H2O",))
ORGANIC = Valences(
    ("C-C", "C-H", "C-O", "H-O"), {"C": (2, 3, 4), "H": (1,), "O": (1, 2)}
)
NO_BONDS = np.zeros((0, 2), dtype=int)


@pytest.mark.parametrize("atoms", ["HH", "OO", "HHHH", "OHHHH", "H" * 10, "HOOH", "HO"])
def test_atoms_that_are_no_molecules_of_the_data(atoms: str) -> None:
    fault = outside_domain(WATERS, [*atoms], NO_BONDS)
    assert fault is not None and "H2O" in fault
    assert outside_domain(None, [*atoms], NO_BONDS) is None
    assert outside_domain(WATERS, ["O"], NO_BONDS) is None  # its self-energy


@pytest.mark.parametrize("n", [1, 2, 64])
def test_any_number_of_molecules_is_inside_in_any_order(n: int) -> None:
    assert outside_domain(WATERS, ["H", "O", "H"] * n, NO_BONDS) is None
    assert outside_domain(WATERS, ["O"] * n + ["H"] * 2 * n, NO_BONDS) is None
    mixture = Compositions(("CH4O", "H2O", "H4N"))
    assert outside_domain(mixture, [*"CHHHHOOHH"], NO_BONDS) is None
    assert "C2H6" in str(outside_domain(mixture, [*"CCHHHHHH"], NO_BONDS))


def test_bonds_tell_molecules_apart() -> None:
    # H2 and HOOH have the atoms of two waters.
    atoms, bonds = [*"HHHOOH"], np.array([[0, 1], [2, 3], [3, 4], [4, 5]])
    assert outside_domain(WATERS, atoms, NO_BONDS) is None
    assert "H2 (atom 0)" in str(outside_domain(WATERS, atoms, bonds))
    # Atoms without a bond may be bonded, unless all bonds are known.
    some, bonds = [*"OHHOHH"], np.array([[0, 1], [0, 2]])
    assert outside_domain(WATERS, some, bonds) is None
    assert "O (atom 3)" in str(outside_domain(WATERS, some, bonds, complete=True))


@pytest.mark.parametrize(
    ("atoms", "bonds", "named"),
    [
        ("HOH", [[0, 1], [1, 2]], None),
        ("COHHHH", [[0, 1], [0, 2], [0, 3], [0, 4], [1, 5]], None),
        ("HH", [[0, 1]], "H-H"),
        ("HOOH", [[0, 1], [1, 2], [2, 3]], "O-O"),
        ("OHHH", [[0, 1], [0, 2], [0, 3]], "3 bonded"),
        ("CHHOHH", [[0, 1], [0, 2], [3, 4], [3, 5]], None),
        ("OHHO", [[0, 1], [0, 2]], "atom 3"),
    ],
)
def test_bonds_and_neighbors_that_the_data_do_not_have(
    atoms: str, bonds: list[list[int]], named: str | None
) -> None:
    fault = outside_domain(ORGANIC, [*atoms], np.array(bonds))
    assert fault is None if named is None else named in str(fault)


def test_without_bonds_an_odd_number_of_electrons_is_told() -> None:
    """As in ASE, which has none."""
    closed = dataclasses.replace(ORGANIC, odd_electrons=False)
    for atoms, odd in (("CHHH", True), ("OHHH", True), ("CHHHOH", False), ("H", False)):
        fault = outside_domain(closed, [*atoms], NO_BONDS)
        assert ("odd number of electrons" in str(fault)) == odd
        assert outside_domain(ORGANIC, [*atoms], NO_BONDS) is None


METHYL = [[0, 1], [0, 2], [0, 3]]


@pytest.mark.parametrize(
    ("atoms", "bonds", "named"),
    [
        ("CHHH", METHYL, "CH3 (atom 0)"),
        ("OHHCHHH", [[0, 1], [0, 2], [3, 4], [3, 5], [3, 6]], "CH3 (atom 3)"),
        ("COHHH", [[0, 1], [0, 2], [0, 3], [0, 4]], "CH3O"),  # methoxide
        ("COHHHH", [[0, 1], [0, 2], [0, 3], [0, 4], [1, 5]], None),
    ],
)
def test_radicals_and_ions_have_an_odd_number_of_electrons(
    atoms: str, bonds: list[list[int]], named: str | None
) -> None:
    closed = dataclasses.replace(ORGANIC, odd_electrons=False)
    assert outside_domain(ORGANIC, [*atoms], np.array(bonds)) is None
    fault = outside_domain(closed, [*atoms], np.array(bonds))
    assert fault is None if named is None else named in str(fault)


@pytest.mark.parametrize(
    "domain", [WATERS, ORGANIC, dataclasses.replace(ORGANIC, odd_electrons=False)]
)
def test_a_domain_is_the_same_from_json(domain: Domain) -> None:
    text = json.dumps(domain_to_dict(domain))
    assert domain_from_dict(json.loads(text)) == domain


def with_domain(folder: Path, value: object) -> Path:
    write_random_weights(folder, **SMALLEST)
    description = json.loads((folder / "config.json").read_text())
    description["domain"] = value
    (folder / "config.json").write_text(json.dumps(description))
    return folder


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        "H2O",
        {"kind": "weather"},
        {"kind": "compositions", "molecules": []},
        {"kind": "compositions", "molecules": ["h2o"]},
        {"kind": "compositions", "molecules": [7]},
        {"kind": "valences", "bonds": ["CH"], "neighbors": {}},
        {"kind": "valences", "bonds": [], "neighbors": {"C": ["x"]}},
    ],
)
def test_a_domain_that_is_none_is_refused(value: object, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="domain"):
        load_model(with_domain(tmp_path / "m", value))


def test_models_without_a_domain_open_and_warn_of_nothing(random_model: Path) -> None:
    assert load_model(random_model).domain is None
    SE3Potential(random_model).createSystem(topology_of(["H", "H"]))


def test_shipped_models_know_their_molecules() -> None:
    for name in ("water", "liquid-water"):
        assert load_model(name).domain == WATERS


def test_the_organic_model_knows_drugs_and_no_radicals_or_ions() -> None:
    pytest.importorskip("rdkit")
    domain = load_model("organic").domain
    drugs = Path(__file__).parents[1] / "benchmarks/organic/drugs.smi"
    lines = drugs.read_text().splitlines()
    assert len(lines) == 40
    for line in lines:
        mol = molecule_from_smiles(line.split()[0]).mol
        symbols = [atom.GetSymbol() for atom in mol.GetAtoms()]
        ends = [[b.GetBeginAtomIdx(), b.GetEndAtomIdx()] for b in mol.GetBonds()]
        bonds = np.array(ends)
        assert outside_domain(domain, symbols, bonds, complete=True) is None, line
        # Without its last atom, a hydrogen, it is a radical.
        assert symbols[-1] == "H" and bonds[-1].max() == len(symbols) - 1
        fault = outside_domain(domain, symbols[:-1], bonds[:-1], complete=True)
        assert "odd number of electrons" in str(fault), line
    for atoms, bonds, named in (
        ("NHHHH", [[0, 1], [0, 2], [0, 3], [0, 4]], "odd"),  # ammonium
        ("FF", [[0, 1]], "F-F"),
    ):
        found = outside_domain(domain, [*atoms], np.array(bonds), complete=True)
        assert named in str(found)


@pytest.mark.parametrize("atoms", ["HH", "HHHH", "HOOH"])
def test_a_system_outside_of_the_data_is_warned_of(atoms: str, tmp_path: Path) -> None:
    model = with_domain(tmp_path / "m", domain_to_dict(WATERS))
    potential = SE3Potential(model)
    with pytest.warns(OutsideDomainWarning, match="H2O"):
        potential.createSystem(topology_of([*atoms]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        potential.createSystem(topology_of([*"OHH"]))
        potential.createSystem(water_topology(2))


def test_a_run_outside_of_the_data_is_refused_unless_told(tmp_path: Path) -> None:
    model = with_domain(tmp_path / "m", domain_to_dict(WATERS))
    # H2 and HOOH, which only distances tell from two waters.
    peroxide = np.array([[0, 0, 0], [0.96, 0, 0], [1.3, 1.4, 0], [2.2, 1.5, 0.4]])
    hydrogen = np.array([[6.0, 0, 0], [6.0, 0.74, 0]])
    topology = topology_of([*"HOOHHH"])
    positions = np.concatenate([peroxide, hydrogen])
    options = {"model": str(model), "platform": "Reference", "steps": 10}
    with pytest.raises(ValueError, match="H2O2 .*--outside-domain"):
        run_model(topology, positions, ModelRunOptions(out=tmp_path / "a", **options))
    assert not (tmp_path / "a").exists()
    told = ModelRunOptions(
        out=tmp_path / "b", outside_domain=True, equilibration_ps=0.0, **options
    )
    try:
        run_model(topology, positions, told)
    except ValueError as error:  # random weights hold no molecule together
        assert "--outside-domain" not in str(error)


LINE = np.arange(40)[:, None] * [1.2, 0.0, 0.0]


def frames_of(kinds: dict[str, list[tuple[str, np.ndarray, float]]]) -> Frames:
    return Frames.of(
        Frame(
            numbers=np.array([{"H": 1, "C": 6, "O": 8}[s] for s in atoms]),
            positions=positions,
            energy=energy,
            forces=None,
            trajectory=name,
        )
        for name, frames in kinds.items()
        for atoms, positions, energy in frames
    )


def test_the_domain_of_data_is_that_of_relaxed_frames() -> None:
    torn = WATER * [[1.0], [3.0], [1.0]]
    two = np.concatenate([WATER, WATER + [0.0, 0.0, 3.0]])
    frames = frames_of(
        {
            "one": [("OHH", torn, -1.0), ("OHH", WATER, -9.0), ("OHH", torn, np.nan)],
            "two": [("OHHOHH", two, -20.0)],
        }
    )
    assert data_domain(frames) == WATERS


def test_many_molecules_are_described_by_their_bonds() -> None:
    kinds = {}
    for n in range(1, 103):  # chains C_n H, 1.4 A apart
        positions = np.zeros((n + 1, 3))
        positions[:n, 0] = 1.4 * np.arange(n)
        positions[n] = [-1.1, 0.0, 0.0]
        kinds[f"chain {n}"] = [("C" * n + "H", positions, 0.0)]
    domain = data_domain(frames_of(kinds))
    assert domain == Valences(("C-C", "C-H"), {"C": (1, 2), "H": (1,)})


def test_rare_valences_and_complexes_are_no_part_of_the_domain() -> None:
    """One chain of 300 has a hydrogen at its middle; complexes are pressed together."""
    kinds: dict[str, list[tuple[str, np.ndarray, float]]] = {}
    for n in range(2, 302):
        positions = np.zeros((n + 1, 3))
        positions[:n, 0] = 1.4 * np.arange(n)
        positions[n] = [1.4, 1.1, 0.0] if n == 200 else [-1.1, 0.0, 0.0]
        kinds[f"chain {n}"] = [("C" * n + "H", positions, 0.0)]
    chains = frames_of(kinds)
    usual = Valences(("C-C", "C-H"), {"C": (1, 2), "H": (1,)})
    assert data_domain(chains) == usual

    pressed = {
        f"complex {n}": [("OO" + "H" * n, LINE[: n + 2], -9.0)] for n in range(1, 30)
    }
    complexes = frames_of(pressed)
    both = Frames([*chains.blocks, *complexes.blocks])
    assert "O-O" in data_domain(both).bonds  # type: ignore[union-attr]
    named = [
        dataclasses.replace(block, kind=Texts.same("minimum", len(block.energy)))
        for block in chains.blocks
    ]
    assert data_domain(Frames([*named, *complexes.blocks])) == usual


def test_bonds_reach_across_the_box() -> None:
    box = np.diag([8.0, 8.0, 8.0])
    positions = (WATER + [7.8, 0.1, 0.1]) % 8.0
    bonds = bonds_by_distance(["O", "H", "H"], positions, box)
    assert bonds.tolist() == [[0, 1], [0, 2]]
    assert len(bonds_by_distance(["O", "H", "H"], positions, None)) < 2


def test_export_writes_what_training_found() -> None:
    checkpoint = random_checkpoint()
    checkpoint["domain"] = domain_to_dict(ORGANIC)
    assert model_of_checkpoint(checkpoint, "organic", "MIT").domain == ORGANIC
