"""The checks of ``openmm-se3 validate`` pass what is right and see what is not."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from click.testing import CliRunner
from openmm import app
from random_model import SELF_ENERGIES, WATER, random_network, write_random_weights
from rich.console import Console

from openmm_se3 import verlet as integrators
from openmm_se3.cli import main
from openmm_se3.compiled.library import ENGINE_VARIABLE, CompileError
from openmm_se3.config import ModelConfig
from openmm_se3.elements import numbers_of
from openmm_se3.force import SE3Potential
from openmm_se3.force.backends import TorchForce
from openmm_se3.model_file import load_model
from openmm_se3.nn.layers import Gate
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.shipped import shipped_models
from openmm_se3.units import EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM
from openmm_se3.validation import backends, energies, mixed, symmetry
from openmm_se3.validation import validate as battery
from openmm_se3.validation.check import Check
from openmm_se3.validation.dynamics import drift_check, verlet_checks
from openmm_se3.validation.report import Report
from openmm_se3.validation.structures import (
    Structure,
    evaluate,
    in_both_precisions,
    pair_in_contact,
    random_cluster,
    reference_structure,
    smallest_molecule,
    structure_from_file,
)
from openmm_se3.validation.validate import Settings

ELEMENTS = ("H", "O")
MOLECULE = Structure("H2O", np.array([8, 1, 1]), WATER)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model with random weights."""
    return write_random_weights(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(scope="module")
def networks(model_folder: Path) -> dict[str, SE3Transformer]:
    return in_both_precisions(load_model(model_folder))


def cluster() -> Structure:
    return random_cluster(ELEMENTS, np.random.default_rng(0))


def failed(checks: list[Check]) -> list[str]:
    return [f"{c.group}: {c.name}: {c.measured}" for c in checks if c.status == "fail"]


class WrongForces(torch.nn.Module):
    """A network whose forces are one part in a thousand off."""

    def __init__(self, network: SE3Transformer) -> None:
        super().__init__()
        self.network = network
        self.config = network.config

    def energy_and_forces(self, *args: object, **options: object) -> tuple:
        energies, forces = self.network.energy_and_forces(*args, **options)
        return energies, 1.001 * forces


class AnalyticPotential:
    """Stands in for an SE3Potential: harmonic water, with a choice of faults.

    Args:
        curl: Strength (kJ/mol/nm^2) of a force around the z axis, which no energy has.
    """

    precision = "double"
    backend = "analytic"

    def __init__(self, curl: float = 0.0) -> None:
        self.curl = curl

    def createSystem(self, topology: app.Topology) -> openmm.System:  # noqa: N802
        system = openmm.System()
        for atom in topology.atoms():
            system.addParticle(atom.element.mass)
        bonds, angles = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce()
        bonds.addBond(0, 1, 0.096, 490_000.0)
        bonds.addBond(0, 2, 0.096, 490_000.0)
        angles.addAngle(1, 0, 2, 1.82, 420.0)
        system.addForce(bonds)
        system.addForce(angles)
        if self.curl:
            system.addForce(openmm.PythonForce(Curl(self.curl)))
        return system


class Curl:
    """A force around the z axis that does work on every round."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        x = state.getPositions(asNumpy=True)._value
        x = x - x.mean(axis=0)
        forces = self.strength * np.stack([-x[:, 1], x[:, 0], 0.0 * x[:, 2]], axis=1)
        return 0.0, forces


@pytest.mark.parametrize(
    ("measured", "low", "high", "status"),
    [
        (1.0, None, 2.0, "pass"),
        (2.0, None, 2.0, "pass"),
        (2.1, None, 2.0, "fail"),
        (2.9, 3.0, 5.0, "fail"),
        (4.0, 3.0, 5.0, "pass"),
        (0.0, None, None, "pass"),
        (math.nan, None, 1.0, "fail"),
        (math.nan, None, None, "fail"),
        (math.inf, 1.0, None, "fail"),
        (None, None, 1.0, "not run"),
    ],
)
def test_limits_of_a_check(
    measured: float | None, low: float | None, high: float | None, status: str
) -> None:
    check = Check("group", "name", measured, "A", low, high)
    assert check.status == status
    # JSON has neither NaN nor infinity.
    json.dumps(check.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    "elements", [("H", "O"), ("Cu",), ("H", "C", "N", "O", "F", "S", "Cl", "Si", "I")]
)
def test_random_clusters_hold_every_element_without_overlaps(
    elements: tuple[str, ...],
) -> None:
    structure = random_cluster(elements, np.random.default_rng(1))
    assert set(structure.numbers) == set(numbers_of(elements))
    assert len(structure.numbers) >= 8
    distances = np.linalg.norm(
        structure.positions[:, None] - structure.positions[None, :], axis=-1
    )
    assert distances[np.triu_indices(len(distances), 1)].min() > 0.7
    assert len(np.unique(distances.round(6))) > len(distances)  # no symmetry


def test_a_small_molecule_is_doubled() -> None:
    reference = {"symbols": ["O", "H", "H"], "positions": WATER.tolist()}
    molecule = reference_structure(reference)
    assert smallest_molecule(molecule).name == "H2O"
    pair = pair_in_contact(molecule, np.random.default_rng(0))
    assert pair.name == "two H2O"
    assert pair.numbers.tolist() == [8, 1, 1, 8, 1, 1]
    gaps = np.linalg.norm(pair.positions[:3, None] - pair.positions[3:], axis=-1)
    assert 1.9 <= gaps.min() < 2.0


def test_of_a_cluster_one_or_two_molecules_are_taken() -> None:
    offsets = ((0.0, 0.0), (2.7, 0.0), (2.7, 3.4))
    waters = [WATER + np.array([x, 0.0, z]) for x, z in offsets]
    order = [0, 3, 6, 1, 2, 4, 5, 7, 8]  # oxygens first
    positions = np.concatenate(waters)[order]
    cluster = Structure("cluster", np.repeat([8, 1], [3, 6]), positions)
    pair = pair_in_contact(cluster, np.random.default_rng(0))
    assert pair.name == "H4O2"
    assert sorted(pair.numbers.tolist()) == [1, 1, 1, 1, 8, 8]
    assert pair.positions[:, 2].max() == 0.0  # the first two
    molecule = smallest_molecule(cluster)
    assert molecule.numbers.tolist() == [8, 1, 1]
    np.testing.assert_array_equal(molecule.positions, waters[0])


def test_a_large_molecule_is_taken_as_it_is() -> None:
    positions = np.arange(10)[:, None] * np.array([1.4, 0.0, 0.0])
    rng = np.random.default_rng(0)
    chain = Structure("chain", np.full(10, 6), positions)
    for found in (smallest_molecule(chain), pair_in_contact(chain, rng)):
        np.testing.assert_array_equal(found.positions, positions)


def test_atoms_without_bonds_stay_together() -> None:
    positions = np.arange(4)[:, None] * np.array([3.8, 0.0, 0.0])
    argon = Structure("Ar4", np.full(4, 18), positions)
    assert smallest_molecule(argon) is argon
    assert pair_in_contact(argon, np.random.default_rng(0)).name == "Ar2"


def test_structure_files(tmp_path: Path) -> None:
    path = tmp_path / "water.xyz"
    path.write_text("3\n\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n")
    assert structure_from_file(path, ELEMENTS).numbers.tolist() == [8, 1, 1]
    with pytest.raises(ValueError, match="the model knows H, C"):
        structure_from_file(path, ("H", "C"))
    with pytest.raises(FileNotFoundError, match=r"none\.xyz"):
        structure_from_file(tmp_path / "none.xyz", ELEMENTS)
    path.write_text("three atoms\n")
    with pytest.raises(ValueError, match="cannot be read"):
        structure_from_file(path, ELEMENTS)


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_representations_are_those_of_the_rotation(degree: int, sign: float) -> None:
    rng = np.random.default_rng(degree)
    first, second = sign * symmetry.random_rotation(rng), symmetry.random_rotation(rng)
    matrices = [symmetry.representation(degree, r) for r in (first, second)]
    both = symmetry.representation(degree, first @ second)
    assert (matrices[0] @ matrices[1] - both).abs().max() < 1e-13
    unit = torch.eye(2 * degree + 1, dtype=torch.float64)
    assert (both @ both.T - unit).abs().max() < 1e-13
    if degree == 1:
        np.testing.assert_allclose(matrices[0], first, atol=1e-13)


@pytest.mark.parametrize(
    "changes",
    [{}, {"kernel": "full", "mirror": False}, {"force_mode": "direct"}],
    ids=["depthwise", "full, chiral", "direct"],
)
def test_symmetry_checks_pass(changes: dict[str, object]) -> None:
    found = symmetry.symmetry_checks(
        {
            "double": random_network(**changes),
            "single": random_network(torch.float32, **changes),
        },
        cluster(),
        np.random.default_rng(0),
    )
    assert not failed(found)
    layers = [c for c in found if c.name.startswith(("attention", "nonlin"))]
    assert len(layers) == 2 * 3 * 3  # precisions; attention and its two companions
    # Numbers, not zeros: the layers do something.
    assert max(c.measured for c in layers if "single" in c.name) > 1e-8


def test_symmetry_checks_see_a_broken_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network()
    forward = Gate.forward

    def broken(self: Gate, features: torch.Tensor) -> torch.Tensor:
        weights = torch.ones(len(features), 1, 1, dtype=features.dtype)
        weights[1:2] = 1.0 + 1e-5  # the x of every vector grows
        return forward(self, features) * weights

    monkeypatch.setattr(Gate, "forward", broken)
    found = symmetry.symmetry_checks(
        {"double": network}, cluster(), np.random.default_rng(0)
    )
    wrong = " ".join(failed(found))
    assert "nonlinearities.0" in wrong
    assert "nonlinearities.1" in wrong
    assert "forces, double" in wrong
    assert "attention.0" not in wrong  # only what is broken


def test_symmetry_checks_see_what_depends_on_the_numbering(
    networks: dict[str, SE3Transformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_atom_is_special(
        network: SE3Transformer, structure: Structure
    ) -> tuple[float, np.ndarray]:
        energy, forces = evaluate(network, structure)
        forces[0] *= 1.0 + 1e-5
        return energy, forces

    monkeypatch.setattr(symmetry, "evaluate", first_atom_is_special)
    order = np.arange(8)[::-1]
    _, error = symmetry.permutation_errors(networks["double"], cluster(), order)
    assert error > symmetry.FORCE_LIMIT["double"]


def test_the_battery_numbers_atoms_differently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The order that is given to the check is another one, and the check is judged."""
    orders = []
    real = symmetry.permutation_errors

    def errors(*arguments: Any) -> tuple[float, float]:
        orders.append(arguments[2])
        real(*arguments)
        return 0.0, 1.0

    monkeypatch.setattr(symmetry, "permutation_errors", errors)
    structure = cluster()
    found = symmetry.symmetry_checks(
        {"double": random_network()}, structure, np.random.default_rng(0)
    )
    assert failed(found) == ["permutation: forces, double: 1.0"]
    n_atoms = len(structure.numbers)
    assert sorted(orders[0]) == list(range(n_atoms))
    moved = structure.numbers[orders[0]] != structure.numbers
    assert moved.any(), "nothing was permuted"


def test_a_numbering_that_matters_fails_the_battery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def first_atom_is_special(
        network: SE3Transformer, structure: Structure
    ) -> tuple[float, np.ndarray]:
        energy, forces = evaluate(network, structure)
        forces[0] *= 1.0 + 1e-5
        return energy, forces

    monkeypatch.setattr(symmetry, "evaluate", first_atom_is_special)
    found = symmetry.symmetry_checks(
        {"double": random_network()}, cluster(), np.random.default_rng(0)
    )
    assert "permutation: forces, double" in " ".join(failed(found))


def test_reflections_are_tried_where_the_model_claims_them() -> None:
    """Rotations alone do not tell a network that knows left from right."""
    network = random_network(seed=1, mirror=False)
    for claimed in (False, True):
        network.config = dataclasses.replace(network.config, mirror=claimed)
        found = symmetry.symmetry_checks(
            {"double": network}, cluster(), np.random.default_rng(0)
        )
        wrong = " ".join(failed(found))
        for name in ("attention.1", "energy", "forces"):
            assert (f"equivariance: {name}, double" in wrong) is claimed


def test_energy_checks_pass(networks: dict[str, SE3Transformer]) -> None:
    found = energies.energy_checks(networks, cluster(), MOLECULE)
    assert not failed(found)
    _, forces = evaluate(networks["double"], cluster())
    assert np.abs(forces).max() > 1e-2  # the comparison has something to compare


def test_wrong_forces_are_seen(networks: dict[str, SE3Transformer]) -> None:
    wrong = WrongForces(networks["double"])
    check = energies.gradient_check(wrong, cluster())  # type: ignore[arg-type]
    assert check.status == "fail"


@pytest.mark.parametrize("number", numbers_of(ELEMENTS))
def test_an_isolated_atom_of_any_element_is_looked_at(
    number: int, networks: dict[str, SE3Transformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_energy(
        network: SE3Transformer, structure: Structure
    ) -> tuple[float, np.ndarray]:
        energy, forces = evaluate(network, structure)
        return energy + 1e-3 * (structure.numbers.tolist() == [number]), forces

    monkeypatch.setattr(energies, "evaluate", with_energy)
    found = energies.isolated_atom_checks({"double": networks["double"]})
    assert [check.name for check in found if check.status == "fail"] == ["H, O, double"]


def test_forces_that_depend_on_a_far_copy_are_seen(
    networks: dict[str, SE3Transformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_many(
        network: SE3Transformer, structure: Structure
    ) -> tuple[float, np.ndarray]:
        energy, forces = evaluate(network, structure)
        return energy, forces * (1.0 + 1e-4 * (len(forces) > 3))

    assert energies.additivity_check(networks["double"], MOLECULE).status == "pass"
    monkeypatch.setattr(energies, "evaluate", of_many)
    assert energies.additivity_check(networks["double"], MOLECULE).status == "fail"


def test_direct_forces_are_reported_but_not_judged_as_a_gradient() -> None:
    network = random_network(force_mode="direct")
    check = energies.gradient_check(network, cluster())
    assert check.measured is not None and check.measured > energies.FORCE_LIMIT
    assert check.status == "pass"
    assert check.limit == "none"


def test_a_sharp_cutoff_is_seen(
    networks: dict[str, SE3Transformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sharp(
        network: SE3Transformer, structure: Structure
    ) -> tuple[float, np.ndarray]:
        distance = np.linalg.norm(structure.positions[1] - structure.positions[0])
        inside = 1e-3 if distance < network.config.cutoff else 0.0
        return inside, np.zeros((2, 3))

    assert energies.cutoff_check(networks["double"]).status == "pass"
    monkeypatch.setattr(energies, "evaluate", sharp)
    assert energies.cutoff_check(networks["double"]).status == "fail"


def test_verlet_checks_on_an_analytic_force() -> None:
    found = verlet_checks(
        AnalyticPotential(),  # type: ignore[arg-type]
        MOLECULE,
        500,
        np.random.default_rng(0),
    )
    assert not failed(found)
    assert len(found) == 6
    assert found[0].measured == 500  # an almost harmonic molecule is not chaotic


@pytest.mark.parametrize("wrong", ["OpenMM", "NumPy"])
def test_a_wrong_integrator_is_seen(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two it is: no comparison is one with itself."""
    if wrong == "OpenMM":
        right = openmm.VerletIntegrator
        monkeypatch.setattr(
            openmm, "VerletIntegrator", lambda step: right((1.0 + 1e-5) * step)
        )
    else:
        step = integrators.verlet_step
        monkeypatch.setattr(
            integrators,
            "verlet_step",
            lambda x, before, a, dt: step(x, before + 1e-6 * (x - before), a, dt),
        )
    potential: Any = AnalyticPotential()
    found = verlet_checks(potential, MOLECULE, 100, np.random.default_rng(0))
    wrong_checks = [check.name for check in found if check.status == "fail"]
    assert "NumPy against OpenMM" in wrong_checks
    assert f"{wrong} returns to its start" in wrong_checks


def test_verlet_checks_on_the_shipped_model(model_folder: Path) -> None:
    model = "water" if "water" in shipped_models() else model_folder
    potential = SE3Potential(model, precision="double")
    found = verlet_checks(potential, MOLECULE, 2000, np.random.default_rng(0))
    assert not failed(found)
    # Atoms in a random potential collide, which ends what can be compared early.
    assert found[0].measured == 2000 or model != "water"


def test_drift_of_an_analytic_force_and_of_one_without_an_energy() -> None:
    good = drift_check(AnalyticPotential(), MOLECULE, "double", 2.0, seed=1)  # type: ignore[arg-type]
    assert good.status == "pass"
    assert good.measured is not None and good.measured < 1.0
    # A curl of 0.002 eV/A at 1 A: small beside the forces of bonds.
    curl = AnalyticPotential(0.02 * EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM)
    bad = drift_check(curl, MOLECULE, "double", 2.0, seed=1)  # type: ignore[arg-type]
    assert bad.status == "fail"


def test_differences_of_backends_pass_nan_on() -> None:
    right = [(1.0, np.zeros((2, 3)))] * 3
    wrong = [*right[:2], (1.0, np.full((2, 3), np.nan))]
    assert backends.largest_errors(right, right) == (0.0, 0.0)
    assert math.isnan(backends.largest_errors(wrong, right)[1])
    assert math.isnan(backends.largest_errors([(math.nan, right[0][1])], right[:1])[0])


def missing(monkeypatch: pytest.MonkeyPatch, problem: str) -> None:
    """Let TorchForce be missing for these checks."""

    class Missing(TorchForce):
        def problem(self) -> str:
            return problem

    there = {**backends.BACKENDS, "torchforce": Missing()}
    monkeypatch.setattr(backends, "BACKENDS", there)


def test_backends_agree_and_what_is_missing_is_said(
    model_folder: Path,
    networks: dict[str, SE3Transformer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing(monkeypatch, "no plugin; install it")
    found = backends.backend_checks(
        model_folder, networks, [MOLECULE], np.random.default_rng(0)
    )
    assert not failed(found)
    not_run = [c for c in found if c.status == "not run" and "torchforce" in c.name]
    assert len(not_run) == 2
    assert all(c.note == "no plugin; install it" for c in not_run)
    names = [c.name for c in found if c.status == "pass"]
    for name in (
        "torchscript, pythonforce, Reference, single",
        "ASE calculator, double",
    ):
        assert name in names


def test_both_engines_are_compared_where_both_are_there(
    networks: dict[str, SE3Transformer],
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_compiler(engine: str, config: ModelConfig, precision: str) -> str:
        if engine in ("compiled", "triton"):
            raise CompileError("no compiler here")
        return engine

    monkeypatch.delenv(ENGINE_VARIABLE)
    monkeypatch.setattr("openmm_se3.force.potential.compile_engine", no_compiler)
    monkeypatch.setattr(backends, "platform_names", lambda: ["Reference"])
    found = backends.backend_checks(
        model_folder,
        {"double": networks["double"], "single": networks["single"]},
        [MOLECULE],
        np.random.default_rng(0),
    )
    assert not failed(found)
    notes = {c.name: c.note for c in found if c.status == "not run"}
    assert notes.keys() == {
        f"{engine}, {backend}, {precision}"
        for engine in ("compiled", "triton")
        for backend in backends.BACKENDS
        for precision in networks
    }
    assert set(notes.values()) == {"no compiler here"}


@pytest.mark.parametrize(("platform", "passes"), [("CPU", False), ("CUDA", True)])
def test_an_error_is_a_failure_unless_it_is_a_gpu(
    networks: dict[str, SE3Transformer],
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    platform: str,
    passes: bool,
) -> None:
    def refuse(*arguments: Any) -> Any:
        raise openmm.OpenMMException("the model's energy is NaN")

    monkeypatch.setattr(backends, "platform_names", lambda: [platform])
    monkeypatch.setattr(backends, "_calls", refuse)
    found = backends.backend_checks(
        model_folder, networks, [MOLECULE], np.random.default_rng(0)
    )
    of_platform = [c for c in found if f", {platform}," in c.name]
    assert of_platform and all("energy is NaN" in c.note for c in of_platform)
    assert Report("a", {}, tuple(found)).passed == passes


def test_a_backend_that_differs_is_seen(
    model_folder: Path,
    networks: dict[str, SE3Transformer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def off(network: SE3Transformer, structure: Structure) -> tuple[float, np.ndarray]:
        energy, forces = evaluate(network, structure)
        return energy, forces + 1e-3

    missing(monkeypatch, "left out")
    monkeypatch.setattr(backends, "platform_names", lambda: ["Reference"])
    monkeypatch.setattr(backends, "evaluate", off)
    found = backends.backend_checks(
        model_folder, networks, [MOLECULE], np.random.default_rng(0)
    )
    run = [c for c in found if c.group == "backends" and c.measured is not None]
    assert len(run) == 4
    assert all(c.status == "fail" for c in run)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="steps must be at least 100, got 3"):
        Settings(steps=3)
    with pytest.raises(ValueError, match="drift_ps"):
        Settings(drift_ps=-1.0)


def test_classical_energy_inside_the_models_atoms_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checks = mixed.mixed_checks(MOLECULE, np.random.default_rng(0))
    assert {check.status for check in checks} == {"pass"} and len(checks) == 5
    monkeypatch.setattr("openmm_se3.force.mixed.exclude_inside", lambda *_: None)
    checks = mixed.mixed_checks(MOLECULE, np.random.default_rng(0))
    assert {check.status for check in checks} == {"fail"}


def test_command_on_a_model(model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    options = ["--steps", "100", "--drift-ps", "0", "--out", str(out)]
    result = CliRunner().invoke(main, ["validate", str(model_folder), *options])
    assert result.exit_code == 0, result.output
    assert "PASSED" in result.output
    content = json.loads(out.read_text())
    assert content["passed"] is True
    assert content["model_metadata"]["self_energies"] == SELF_ENERGIES
    groups = {check["group"] for check in content["checks"]}
    assert groups == {
        "equivariance",
        "permutation",
        "finite differences",
        "isolated atoms",
        "cutoff",
        "precision",
        "backends",
        "mixed systems",
        "Verlet",
        "drift",
        "accuracy",
    }
    drift = [check for check in content["checks"] if check["group"] == "drift"]
    assert [check["status"] for check in drift] == ["not run"]
    assert "drift, NVE: - (limit none) left out by --drift-ps 0" in result.output
    again = CliRunner().invoke(main, ["validate", str(model_folder), *options])
    assert again.exit_code == 2
    assert "--overwrite" in again.output


def test_notes_are_printed_as_they_are() -> None:
    note = 'fix: pip install "openmm-se3[ase]"'
    report = Report("a", {}, (Check("backends", "name [x]", None, note=note),))
    console = Console(file=io.StringIO(), width=200)
    report.print(console)
    assert console.file.getvalue().count(note) == 2
    assert console.file.getvalue().count("name [x]") == 2


def test_few_atoms_are_checked_with_one_thread(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    monkeypatch.setattr(
        battery, "symmetry_checks", lambda *_: threads.append(torch.get_num_threads())
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(TypeError):  # of the None that came for checks
            battery.validate(model_folder, Settings(steps=100, drift_ps=0.0))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threads == [1]


def test_command_fails_when_a_check_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Report("bad", {}, (Check("group", "name", 2.0, "A", high=1.0),))
    monkeypatch.setattr(battery, "validate", lambda *_: report)
    out = tmp_path / "result.json"
    result = CliRunner().invoke(main, ["validate", "bad", "--out", str(out)])
    assert result.exit_code == 1
    assert "FAILED: 1 failed" in result.output
    assert json.loads(out.read_text())["passed"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-model"], "no-such-model"),
        (["water", "--steps", "1"], "1 is not in the range x>=100"),
        (["water", "--drift-ps", "-1"], "-1.0 is not in the range x>=0.0"),
        (["water", "--drift-ps", "0.1"], "drift_ps must be 0 or at least 0.5"),
        (
            ["water", "--out", "no/such/folder/x.json"],
            "no folder no/such/folder to write",
        ),
    ],
)
def test_command_refuses_bad_input_in_one_line(
    arguments: list[str], message: str
) -> None:
    result = CliRunner().invoke(main, ["validate", *arguments])
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
