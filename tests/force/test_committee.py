"""Committees: one file of several networks, their mean and their deviation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from click.testing import CliRunner
from committees import (
    MEMBERS,
    TOLERANCE,
    member,
    shifted,
    waters_apart,
    write_weights,
)
from openmm import unit
from random_model import (
    BOX,
    SMALLEST,
    WATER,
    random_checkpoint,
    random_network,
    topology_of,
    water_cluster,
)

from openmm_se3 import SE3Potential, load_model
from openmm_se3.cli import main
from openmm_se3.committee import committee_of
from openmm_se3.compiled.force import compiled_force
from openmm_se3.compiled.library import find_compiler
from openmm_se3.description import ModelFileError
from openmm_se3.deviation import Deviation
from openmm_se3.domain import Compositions, Valences, domain_to_dict
from openmm_se3.export import model_of_checkpoint, write_committee
from openmm_se3.force.evaluator import Evaluator
from openmm_se3.model_file import ModelFile
from openmm_se3.single_point import evaluate
from openmm_se3.units import (
    EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM,
    EV_TO_KJ_PER_MOL,
    NM_TO_ANGSTROM,
)


@pytest.fixture(scope="module")
def members() -> list[ModelFile]:
    return [member(seed) for seed in range(MEMBERS)]


@pytest.fixture(scope="module")
def folder(members: list[ModelFile], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(
        committee_of(members, "three"), tmp_path_factory.mktemp("models") / "three"
    )


def mean_of(
    members: list[ModelFile],
    symbols: list[str],
    positions: np.ndarray,
    box: np.ndarray | None = None,
    precision: torch.dtype = torch.float64,
) -> Deviation:
    """Return the deviation of models that are evaluated one by one."""
    results = [evaluate(m.network(precision), symbols, positions, box) for m in members]
    return Deviation.of([e for e, _ in results], [f for _, f in results])


def test_the_deviation_is_the_root_mean_square_distance_from_the_mean() -> None:
    rng = np.random.default_rng(0)
    energies, forces = rng.normal(size=4), rng.normal(size=(4, 5, 3))
    found = Deviation.of(energies, forces)
    distances = np.linalg.norm(forces - forces.mean(axis=0), axis=2)
    assert found.forces_std == pytest.approx(np.sqrt((distances**2).sum(axis=0) / 4))
    assert found.energy_std == pytest.approx(np.sqrt(np.var(energies)))
    assert found.largest == max(found.forces_std) == found.forces_std[found.atom]


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("box", [None, BOX], ids=["free", "box"])
def test_energy_and_forces_are_the_mean_of_members_loaded_one_by_one(
    members: list[ModelFile], folder: Path, precision: str, box: np.ndarray | None
) -> None:
    potential = SE3Potential(folder, precision=precision)
    energy, forces = potential.energy_and_forces([8, 1, 1], WATER, box)
    expected = mean_of(members, ["O", "H", "H"], WATER, box)
    assert expected.energy_std > 0.01 and expected.largest > 0.01
    assert energy == pytest.approx(expected.energy, abs=TOLERANCE[precision])
    assert forces == pytest.approx(expected.forces, abs=TOLERANCE[precision])
    found = potential.deviation([8, 1, 1], WATER, box)
    assert found.energy_std == pytest.approx(
        expected.energy_std, abs=TOLERANCE[precision]
    )
    assert potential.force_uncertainty([8, 1, 1], WATER, box) == pytest.approx(
        expected.forces_std, abs=TOLERANCE[precision]
    )


@pytest.mark.parametrize("mode", ["conservative", "direct", "both"])
def test_every_equation_in_a_committee(mode: str) -> None:
    changes = {"layers": 2, "lmax": 1, "force_mode": mode, "symmetry": "SO(3)"}
    models = [member(seed, **changes) for seed in range(2)]
    network = committee_of(models, "two").network(torch.float64)
    species, positions = water_cluster(2)
    symbols = [network.config.elements[s] for s in species]
    energy, forces = evaluate(network, symbols, positions.numpy())
    expected = mean_of(models, symbols, positions.numpy())
    assert energy == pytest.approx(expected.energy, abs=1e-10)
    assert forces == pytest.approx(expected.forces, abs=1e-10)


def test_forces_are_minus_the_slope_of_the_mean_energy(folder: Path) -> None:
    potential = SE3Potential(folder, precision="double")
    forces = potential.energy_and_forces([8, 1, 1], WATER)[1]
    step = 1e-4
    for atom, axis in np.ndindex(3, 3):
        energies = []
        for sign in (1.0, -1.0):
            moved = WATER.copy()
            moved[atom, axis] += sign * step
            energies.append(potential.energy_and_forces([8, 1, 1], moved)[0])
        slope = (energies[0] - energies[1]) / (2.0 * step)
        assert forces[atom, axis] == pytest.approx(-slope, abs=1e-6)


@pytest.fixture(scope="module")
def exported(
    members: list[ModelFile], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The members' committee as the command writes it."""
    here = tmp_path_factory.mktemp("exported")
    names = [write_weights(m, here / m.metadata["name"]) for m in members]
    out = here / "whole"
    command = ["export", *map(str, names), "--out", str(out), "--threshold", "0.25"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    return out


def test_a_file_holds_the_members_and_what_was_known_of_each(
    members: list[ModelFile], exported: Path
) -> None:
    found = load_model(exported)
    assert found.n_members == MEMBERS and found.metadata["format_version"] == 2
    assert found.metadata["name"] == "whole"
    assert found.metadata["uncertainty_threshold"] == 0.25
    assert load_model(exported / "model.pt").metadata == found.metadata
    for number, own in enumerate(members):
        again = found.member(number)
        assert again.n_members == 1 and again.metadata["name"] == f"member{number}"
        for key in ("weights_sha256", "reference", "self_energies", "format_version"):
            assert again.metadata[key] == own.metadata[key], key
    with pytest.raises(FileExistsError):
        write_committee(members, exported)
    # A committee's members can be members of another.
    assert committee_of([found, member(7)], "four").n_members == MEMBERS + 1
    only = SE3Potential(exported, committee=False)
    first = evaluate(members[0].network(), ["O", "H", "H"], WATER)
    found_energy, _ = only.energy_and_forces([8, 1, 1], WATER)
    assert found_energy == pytest.approx(first[0], abs=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        ["a", "b", "--topology", "x.pdb"],
        ["a", "b", "--threshold", "-1"],
        ["a", "--threshold", "0.3"],
    ],
)
def test_options_that_exclude_each_other(wrong: list[str], tmp_path: Path) -> None:
    command = ["export", *wrong, "--out", str(tmp_path / "none")]
    assert CliRunner().invoke(main, command).exit_code == 2


def test_a_single_model_names_no_members(members: list[ModelFile]) -> None:
    assert "members" not in members[0].metadata
    assert set(members[0].metadata["reference"]) == {
        *("symbols", "positions", "energy", "forces")
    }


def test_self_energies_that_were_fitted_for_each_member_stay_its_own() -> None:
    models = []
    for seed, shift in enumerate((0.0, 0.3)):
        fitted = random_checkpoint(**SMALLEST)
        fitted["average"] = random_network(torch.float32, seed, **SMALLEST).state_dict()
        fitted["choices"]["self_energies"] = "least-squares"
        energies = fitted["self_energies"]
        fitted["self_energies"] = {**energies, "H": energies["H"] + shift}
        models.append(model_of_checkpoint(fitted, f"fit{seed}", "MIT"))
    both = committee_of(models, "both")
    assert both.metadata["self_energies"]["H"] == pytest.approx(-13.5 + 0.15)
    for number, model in enumerate(models):
        kept = both.member(number).metadata["self_energies"]
        assert kept == model.metadata["self_energies"]


def test_a_committee_knows_what_all_members_know(members: list[ModelFile]) -> None:
    """Bonds that one member has not seen are outside of the committee's data."""
    water, methanol = ("H-O",), ("C-H", "C-O", "H-O")
    domains = [
        Valences(methanol, {"H": (1,), "O": (1, 2), "C": (3, 4)}, odd_electrons=False),
        Valences(water, {"H": (1,), "O": (2, 3)}, odd_electrons=True),
    ]
    pair = [
        shifted(model, domain=domain_to_dict(domain))
        for model, domain in zip(members, domains, strict=False)
    ]
    shared = committee_of(pair, "both").domain
    assert shared == Valences(water, {"H": (1,), "O": (2,)}, odd_electrons=False)
    unknown = shifted(pair[1], domain=domain_to_dict(Compositions(("H2O",))))
    assert committee_of([pair[0], unknown], "both").domain is None


REFUSED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "one": (lambda a, b: [a], ("2 to 8", "got 1")),
    "nine": (lambda a, b: [a] * 9, ("got 9",)),
    "twins": (lambda a, b: [a, b, a], ("members 0 and 2", "seed")),
    "shape": (lambda a, b: [a, member(1, layers=2)], ("layers is 2, not 1", "member1")),
    "cutoff": (lambda a, b: [a, member(1, cutoff=5.0)], ("cutoff is 5.0, not 4.0",)),
    "level": (
        lambda a, b: [
            a,
            shifted(b, level_of_theory={"method": "pbe", "basis": "none"}),
        ],
        ("level of theory", "pbe", "none"),
    ),
    "self-energies": (
        lambda a, b: [a, shifted(b, self_energies={"H": -13.0, "O": -2041.25})],
        ("H", "-13.000000", "-13.500000"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_models_that_do_not_belong_together_are_refused(
    case: str, members: list[ModelFile]
) -> None:
    models, words = REFUSED[case]
    with pytest.raises(ValueError) as error:
        committee_of(models(*members[:2]), "none")
    for word in words:
        assert word in str(error.value), word


def test_members_of_other_elements_are_refused(members: list[ModelFile]) -> None:
    other = member(1)
    config = {**other.metadata["model"], "elements": ["O", "H"]}
    turned = random_network(torch.float32, 1, **SMALLEST, elements=("O", "H"))
    checkpoint = random_checkpoint(**SMALLEST)
    checkpoint |= {"model": config, "average": turned.state_dict()}
    with pytest.raises(ValueError) as error:
        committee_of([members[0], model_of_checkpoint(checkpoint, "x", "MIT")], "none")
    assert "elements is ['O', 'H'], not ['H', 'O']" in str(error.value)


def changed(folder: Path, **changes: Any) -> None:
    description = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**description, **changes}))


TAMPERED: dict[str, tuple[dict[str, Any], str]] = {
    "one more": ({"members": 4}, "4 objects"),
    "one less": (
        {"members": 2, "member_descriptions": [{}, {}]},
        "member.2.",
    ),
    "none": ({"members": 0}, "members is 0"),
    "many": ({"members": 9}, "members is 9"),
    "text": ({"members": "3"}, "members is '3'"),
    "descriptions": ({"member_descriptions": [1, 2, 3]}, "member_descriptions"),
    "self-energies": (
        {"member_descriptions": [{"self_energies": {"H": 1.0}}, {}, {}]},
        "'O'",
    ),
    "threshold": ({"uncertainty_threshold": -1.0}, "uncertainty_threshold is -1.0"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_a_tampered_description_is_refused(
    case: str, folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    changes, words = TAMPERED[case]
    changed(copy, **changes)
    with pytest.raises(ModelFileError) as error:
        load_model(copy)
    assert words in str(error.value)


@pytest.mark.parametrize("key", ["energy", "forces", "energy_std", "forces_std"])
def test_a_reference_that_the_members_do_not_give_is_refused(
    key: str, folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    reference = json.loads((copy / "config.json").read_text())["reference"]
    reference[key] = (np.array(reference[key]) + 0.01).tolist()
    changed(copy, reference=reference)
    with pytest.raises(ModelFileError) as error:
        load_model(copy)
    assert "1.0e-02" in str(error.value)


def test_tampered_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = bytearray((copy / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "weights.safetensors").write_bytes(weights)
    with pytest.raises(ModelFileError) as error:
        load_model(copy)
    assert "SHA-256" in str(error.value)


def results(
    system: openmm.System, positions: np.ndarray, platform: str = "Reference"
) -> tuple[float, np.ndarray]:
    """Return energy, eV, and forces, eV/A, as OpenMM has them."""
    context = openmm.Context(
        system,
        openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatformByName(platform),
    )
    context.setPositions(positions * unit.angstrom)
    state = context.getState(energy=True, forces=True)
    return (
        state.getPotentialEnergy()._value / EV_TO_KJ_PER_MOL,
        state.getForces(asNumpy=True)._value / EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM,
    )


@pytest.mark.parametrize("box", [None, BOX], ids=["free", "box"])
def test_backends_and_their_xml_agree(
    members: list[ModelFile], folder: Path, box: np.ndarray | None
) -> None:
    symbols = ["O", "H", "H"] * 2
    positions = np.concatenate([WATER, WATER + [0.0, 0.0, 2.9]])
    expected = mean_of(members, symbols, positions, box)
    topology = topology_of(symbols, box)
    for backend in ("torchforce", "pythonforce"):
        potential = SE3Potential(folder, precision="double", backend=backend)
        system = potential.createSystem(topology)
        text = openmm.XmlSerializer.serialize(system)
        for one in (system, openmm.XmlSerializer.deserialize(text)):
            energy, forces = results(one, positions)
            assert energy == pytest.approx(expected.energy, abs=1e-8)
            assert forces == pytest.approx(expected.forces, abs=1e-8)


def test_some_atoms_of_a_system(members: list[ModelFile], folder: Path) -> None:
    potential = SE3Potential(folder, precision="double")
    positions = np.concatenate([[[9.0, 9.0, 9.0]], WATER])
    topology = topology_of(["H", "O", "H", "H"])
    system = openmm.System()
    for _ in range(4):
        system.addParticle(1.0)
    potential.addForces(system, topology, [1, 2, 3])
    expected = mean_of(members, ["O", "H", "H"], WATER)
    energy, forces = results(system, positions)
    assert energy == pytest.approx(expected.energy, abs=1e-8)
    assert forces == pytest.approx(np.pad(expected.forces, ((1, 0), (0, 0))), abs=1e-8)
    evaluator = potential.committeeEvaluator(topology, [1, 2, 3])
    found = evaluator(positions)
    assert evaluator.atoms.tolist() == [1, 2, 3]
    assert found.forces_std == pytest.approx(expected.forces_std, abs=1e-8)
    assert found.energy_std == pytest.approx(expected.energy_std, abs=1e-8)


def test_the_deviation_of_a_state_in_a_box(
    members: list[ModelFile], folder: Path
) -> None:
    potential = SE3Potential(folder, precision="double")
    topology = topology_of(["O", "H", "H"], BOX)
    evaluator = potential.committeeEvaluator(topology)
    context = openmm.Context(
        potential.createSystem(topology), openmm.VerletIntegrator(0.001)
    )
    context.setPositions(WATER * unit.angstrom)
    found = evaluator.of_state(context.getState(positions=True))
    expected = mean_of(members, ["O", "H", "H"], WATER, BOX)
    assert found.forces_std == pytest.approx(expected.forces_std, abs=1e-6)
    with pytest.raises(ValueError):
        evaluator(WATER)


def test_energies_deviate_as_total_energies_do(members: list[ModelFile]) -> None:
    own = [{"self_energies": {"H": -13.5 + s, "O": -2041.25}} for s in (0.2, -0.2, 0.0)]
    both = committee_of(members, "three")
    both = ModelFile(
        both.config,
        {
            **both.metadata,
            "member_descriptions": [
                {**known, **new}
                for known, new in zip(
                    both.metadata["member_descriptions"], own, strict=True
                )
            ],
        },
        both.weights,
    )
    evaluator = Evaluator(both, precision="double", implementation="torchscript")
    found = evaluator.deviation(["O", "H", "H"], WATER, None)
    single = [
        evaluate(m.network(torch.float64), ["O", "H", "H"], WATER)[0] for m in members
    ]
    totals = np.array(single) + 2.0 * np.array([0.2, -0.2, 0.0])
    assert found.energy_std == pytest.approx(totals.std(), abs=1e-9)


def test_ase_computes_deviations_when_asked(
    members: list[ModelFile], folder: Path
) -> None:
    from ase import Atoms

    atoms = Atoms("OHH", WATER)
    atoms.calc = SE3Potential(folder, precision="double").ase_calculator()
    atoms.get_forces()
    assert "forces_std" not in atoms.calc.results
    expected = mean_of(members, ["O", "H", "H"], WATER)
    found = atoms.calc.get_property("forces_std", atoms)
    assert found == pytest.approx(expected.forces_std, abs=1e-9)
    assert atoms.calc.results["energy_std"] == pytest.approx(expected.energy_std)


def test_one_network_has_no_uncertainty(smallest_model: Path) -> None:
    potential = SE3Potential(smallest_model)
    for call in (
        lambda: potential.force_uncertainty([8, 1, 1], WATER),
        lambda: potential.committeeEvaluator(topology_of(["O", "H", "H"])),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert "openmm-se3 export" in str(error.value)
    with pytest.raises(NotImplementedError):
        potential.ase_calculator().get_property("forces_std")


@pytest.mark.parametrize(
    ("precision", "box"), [("single", BOX), ("double", None)], ids=["single", "double"]
)
def test_the_compiled_mean(precision: str, box: np.ndarray | None) -> None:
    if find_compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    models = waters_apart()
    symbols = ["O", "H", "H"]
    expected = mean_of(models, symbols, WATER, box)
    network = committee_of(models, "two").network(torch.float64)
    module = compiled_force(network, precision)
    species = torch.tensor([network.config.elements.index(s) for s in symbols])
    module.set_atoms(species, torch.arange(3), 0.25)
    inputs = [WATER] if box is None else [WATER, box]
    energy, forces = module(*(torch.tensor(x / NM_TO_ANGSTROM) for x in inputs))
    tolerance = {"single": 1e-4, "double": 1e-8}[precision]
    found = float(energy) / EV_TO_KJ_PER_MOL - 0.25
    assert expected.energy_std > 10.0 * tolerance
    assert found == pytest.approx(expected.energy, abs=tolerance)
    assert forces.numpy() / EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM == pytest.approx(
        expected.forces, abs=tolerance
    )
