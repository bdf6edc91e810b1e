"""The global parameter that multiplies a model's energy, and its derivative."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from evaluator import PLATFORMS, Evaluator
from openmm import app
from openmmml import MLPotential
from random_model import BOX, topology_of, water_cluster

from openmm_se3 import SE3Potential
from openmm_se3.force import backends
from openmm_se3.force.backends import BACKENDS
from openmm_se3.model_file import load_model
from openmm_se3.torchscript.build import DENSE_ATOMS, ForceSettings, build_module

MANY = DENSE_ATOMS // 3 + 1  # molecules whose module has a neighbor list

all_backends = pytest.mark.parametrize("backend", BACKENDS)
all_modules = pytest.mark.parametrize(
    ("n_molecules", "box"), [(2, None), (MANY, None), (2, BOX)]
)


def positions_of(n_molecules: int) -> np.ndarray:
    """Return positions [3 n_molecules, 3], A."""
    array: np.ndarray = water_cluster(n_molecules)[1].numpy()
    return array


def topology(n_molecules: int, box: np.ndarray | None = None) -> app.Topology:
    return topology_of(["O", "H", "H"] * n_molecules, box)


def system_of(
    implementation_and_model: tuple[str, str],
    backend: str,
    n_molecules: int,
    box: np.ndarray | None,
    **options: Any,
) -> openmm.System:
    implementation, model = implementation_and_model
    potential = SE3Potential(
        model, backend=backend, precision="double", implementation=implementation
    )
    return potential.createSystem(topology(n_molecules, box), **options)


@all_modules
@all_backends
def test_energy_and_forces_are_multiplied(
    backend: str,
    n_molecules: int,
    box: np.ndarray | None,
    implementation_and_model: tuple[str, str],
) -> None:
    plain = system_of(implementation_and_model, backend, n_molecules, box)
    scaled = system_of(
        implementation_and_model, backend, n_molecules, box, scale="lambda_ml"
    )
    positions = positions_of(n_molecules)
    for platform in PLATFORMS:
        energy, forces = Evaluator(plain, platform)(positions)
        assert abs(energy) > 1.0 and np.abs(forces).max() > 1.0
        evaluator = Evaluator(scaled, platform)
        assert evaluator(positions)[0] == pytest.approx(energy, rel=1e-12)
        for value in (0.0, 0.3, 1.7):
            result = evaluator(positions, lambda_ml=value)
            assert result[0] == pytest.approx(value * energy, rel=1e-6)
            np.testing.assert_allclose(result[1], value * forces, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("n_molecules", "box", "kind"),
    [
        (2, None, "total"),
        (2, None, "interaction"),
        (MANY, None, "interaction"),
        (2, BOX, "total"),
    ],
)
@all_backends
def test_derivative(
    backend: str,
    n_molecules: int,
    box: np.ndarray | None,
    kind: str,
    implementation_and_model: tuple[str, str],
) -> None:
    """Equal to finite differences and, as the energy is linear, to E(1) - E(0)."""
    system = system_of(
        implementation_and_model,
        backend,
        n_molecules,
        box,
        energy=kind,
        scale="lambda_ml",
    )
    positions = positions_of(n_molecules)
    for platform in PLATFORMS:
        evaluator = Evaluator(system, platform)
        ends = [evaluator(positions, lambda_ml=value)[0] for value in (0.0, 1.0)]
        for value in (0.0, 0.4, 1.0):
            low, high = (
                evaluator(positions, lambda_ml=value + step)[0] for step in (-0.1, 0.1)
            )
            evaluator(positions, lambda_ml=value)
            for _ in range(3):  # it does not add up from call to call
                derivative = evaluator.derivatives()["lambda_ml"]
            assert derivative == pytest.approx((high - low) / 0.2, rel=1e-6)
            assert derivative == pytest.approx(ends[1] - ends[0], rel=1e-6)


@all_backends
def test_a_parameter_for_each_of_two_forces_or_for_both(
    backend: str, smallest_model: Path
) -> None:
    potential = SE3Potential(smallest_model, backend=backend, precision="double")
    positions = positions_of(2)
    molecules = topology(2)
    separate, shared = openmm.System(), openmm.System()
    for atom in molecules.atoms():
        separate.addParticle(atom.element.mass)
        shared.addParticle(atom.element.mass)
    for index, atoms in enumerate(([0, 1, 2], [3, 4, 5])):
        potential.addForces(separate, molecules, atoms, index, scale=f"lambda_{index}")
        potential.addForces(shared, molecules, atoms, index, scale="lambda")
    one = Evaluator(separate)
    first = one(positions, lambda_0=1.0, lambda_1=0.0)
    second = one(positions, lambda_0=0.0, lambda_1=1.0)
    assert not first[1][3:].any() and not second[1][:3].any()
    energy, forces = one(positions, lambda_0=0.2, lambda_1=0.7)
    assert energy == pytest.approx(0.2 * first[0] + 0.7 * second[0], rel=1e-9)
    np.testing.assert_allclose(forces, 0.2 * first[1] + 0.7 * second[1], atol=1e-6)
    both = Evaluator(shared)
    result = both(positions, **{"lambda": 0.5})
    assert result[0] == pytest.approx(0.5 * (first[0] + second[0]), rel=1e-9)
    assert one.derivatives() == pytest.approx(
        {"lambda_0": first[0], "lambda_1": second[0]}, rel=1e-9
    )
    assert both.derivatives()["lambda"] == pytest.approx(first[0] + second[0])


@all_backends
def test_in_a_mixed_system_the_rest_stays(
    waters, backend: str, smallest_model: Path
) -> None:
    molecules, positions = waters
    field = app.ForceField("tip3p.xml")
    classical = field.createSystem(molecules, constraints=None, rigidWater=False)
    potential = SE3Potential(smallest_model, backend=backend)
    arguments = (molecules, classical, [0, 1, 2])
    plain = Evaluator(potential.createMixedSystem(*arguments))
    mixed = Evaluator(potential.createMixedSystem(*arguments, scale="lambda_ml"))
    alone = openmm.System()
    for atom in molecules.atoms():
        alone.addParticle(atom.element.mass)
    potential.addForces(alone, molecules, [0, 1, 2])
    part = Evaluator(alone)(positions)[0]
    whole = plain(positions)[0]
    assert abs(part) > 1.0
    assert mixed(positions, lambda_ml=0.25)[0] == pytest.approx(whole - 0.75 * part)


def test_through_openmm_ml(smallest_model: Path) -> None:
    potential = MLPotential("se3", modelPath=str(smallest_model))
    evaluator = Evaluator(potential.createSystem(topology(1), scale="lambda_ml"))
    energy = evaluator(positions_of(1))[0]
    assert evaluator(positions_of(1), lambda_ml=0.5)[0] == pytest.approx(0.5 * energy)


@all_modules
def test_parameters_as_the_platforms_hand_them_over(
    n_molecules: int, box: np.ndarray | None, smallest_model: Path
) -> None:
    """Of no dimension and float64 or float32, or of one and the positions' type."""
    settings = ForceSettings(
        model=load_model(smallest_model),
        precision="double",
        species=(1, 0, 0) * n_molecules,
        atoms=tuple(range(3 * n_molecules)),
        n_particles=3 * n_molecules,
        periodic=box is not None,
        offset=-2.0,
        scale="lambda_ml",
    )
    module = torch.jit.freeze(build_module(settings))  # as TorchForce does
    for dtype in (torch.float64, torch.float32):
        positions = torch.tensor(0.1 * positions_of(n_molecules), dtype=dtype)
        inputs = [positions.requires_grad_()]
        if box is not None:
            inputs.append(torch.tensor(0.1 * box, dtype=dtype))
        energy, forces = module(*inputs, torch.tensor(1.0))
        for value in (
            torch.tensor(0.5, dtype=torch.float64),
            torch.tensor(0.5, dtype=torch.float32),
            torch.tensor([0.5], dtype=dtype),
        ):
            half, half_forces = module(*inputs, value.requires_grad_())
            assert half.dtype == half_forces.dtype == dtype
            assert half_forces.is_contiguous()
            assert half.item() == pytest.approx(0.5 * energy.item(), rel=1e-5)
            torch.testing.assert_close(half_forces, 0.5 * forces, rtol=1e-4, atol=1e-3)
            half.backward()
            assert value.grad.item() == pytest.approx(energy.item(), rel=1e-5)
            assert positions.grad is None  # the network is not gone through again


@pytest.mark.parametrize("name", [0.5, "", "lambda ml", ["lambda_ml"]])
def test_what_is_no_name_is_refused(name: Any, smallest_model: Path) -> None:
    with pytest.raises(ValueError, match="scale is the name of a global parameter"):
        SE3Potential(smallest_model).createSystem(topology(1), scale=name)


def test_scaled_systems_free_their_models(
    smallest_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenMM never frees the PythonForce that a CustomCVForce copies for a Context."""
    built = []

    def build(settings: ForceSettings) -> torch.jit.ScriptModule:
        module = build_module(settings)
        built.append(weakref.ref(module))
        return module

    monkeypatch.setattr(backends, "build_module", build)
    potential = SE3Potential(smallest_model, backend="pythonforce", precision="double")
    system = potential.createSystem(topology(2), scale="lambda_ml")
    evaluators = [Evaluator(system, platform) for platform in PLATFORMS]
    energies = [evaluator(positions_of(2))[0] for evaluator in evaluators]
    assert energies[0] == pytest.approx(energies[1], rel=1e-6)
    assert len(built) == 1
    restored = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    del system, evaluators
    gc.collect()
    assert [reference() for reference in built] == [None]
    # Nothing is left to call: the force that was read builds its own.
    assert Evaluator(restored, PLATFORMS[0])(positions_of(2))[0] == pytest.approx(
        energies[0]
    )
    assert len(built) == 2
