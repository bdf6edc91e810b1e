"""Model files are equal to the network that they come from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_files import KJ_PER_MOL, description_of
from random_model import (
    SELF_ENERGIES,
    SMALLEST,
    WATER,
    random_checkpoint,
    random_network,
    small_config,
    topology_of,
    water_cluster,
    write_random_model,
)
from torch import Tensor

from openmm_se3 import SE3Potential
from openmm_se3.description import UNITS, ModelFileError
from openmm_se3.export import export_model, model_of_checkpoint
from openmm_se3.model_file import load_model
from openmm_se3.neighbors import all_pairs, neighbor_pairs
from openmm_se3.nn.force_field import ForceField
from openmm_se3.nn.radial import Envelope
from openmm_se3.torchscript import build, modules
from openmm_se3.torchscript import self_check as checks
from openmm_se3.torchscript.self_check import ExportError

TRICLINIC = torch.tensor([[7.0, 0.0, 0.0], [2.0, 6.0, 0.0], [-1.5, 2.5, 6.5]]).double()


def test_folder_and_script_hold_the_same_model(random_model: Path) -> None:
    checkpoint = random_checkpoint()
    for path in (random_model, random_model / "model.pt", str(random_model)):
        model = load_model(path)
        assert model.config == small_config()
        assert model.metadata == description_of(random_model)
        assert model.weights.keys() == checkpoint["average"].keys()
        for name, tensor in model.weights.items():
            assert torch.equal(tensor, checkpoint["average"][name])


def test_a_description_names_no_folder_of_the_machine() -> None:
    checkpoint = random_checkpoint()
    checkpoint["training"]["initial"] = "/data/runs/first/best.pt"
    model = model_of_checkpoint(checkpoint, "second", "MIT")
    assert model.metadata["training"]["initial"] == "first/best.pt"


def test_the_description_says_what_the_model_is(random_model: Path) -> None:
    metadata = load_model(random_model).metadata
    assert metadata["format"] == "openmm-se3 model"
    assert metadata["format_version"] == 2
    assert metadata["name"] == random_model.name
    assert metadata["units"] == UNITS
    assert metadata["model"]["elements"] == ["H", "O"]
    assert metadata["model"]["cutoff"] == 4.0
    assert metadata["self_energies"] == SELF_ENERGIES
    assert metadata["license"] == "MIT"
    for key in ("level_of_theory", "training_data", "errors", "versions", "steps"):
        assert key in metadata
    assert load_model(random_model).self_energies == {1: -13.5, 8: -2041.25}


def test_checksums_are_those_of_sha256sum(random_model: Path) -> None:
    lines = (random_model / "SHA256SUMS").read_text().splitlines()
    listed = {line[66:]: line[:64] for line in lines}
    assert listed.keys() == {"config.json", "weights.safetensors", "model.pt"}
    for name, digest in listed.items():
        content = (random_model / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest


@pytest.mark.parametrize(
    ("cell", "positions_dtype"),
    [(None, torch.float64), (TRICLINIC, torch.float32)],
    ids=["free", "periodic"],
)
def test_the_script_is_the_network_over_many_calls(
    random_model: Path, cell: Tensor | None, positions_dtype: torch.dtype
) -> None:
    """For any number of atoms in turn, as TorchScript recompiles itself on the way."""
    import vesin_torch  # noqa: F401  (opens the neighbor list inside)

    script = torch.jit.load(random_model / "model.pt")
    network = load_model(random_model).network(torch.float32)
    box = () if cell is None else (0.1 * cell,)
    for call in range(20):
        for n_molecules in (1, 2, 4):
            species, positions = water_cluster(n_molecules, seed=call)
            positions = positions.to(positions_dtype)
            script.set_atoms(species, torch.arange(len(species)), 0.0)
            energy, forces = script((0.1 * positions).requires_grad_(), *box)
            edges = neighbor_pairs(positions, 4.0, cell)
            expected, expected_forces = ForceField(network)(positions, species, edges)
            assert not energy.requires_grad and not forces.requires_grad
            assert energy.dtype == forces.dtype == positions_dtype
            assert forces.is_contiguous()
            error = abs(energy.item() / KJ_PER_MOL - expected.item())
            assert error < 5e-5 * len(species)
            difference = forces / (10.0 * KJ_PER_MOL) - expected_forces
            assert difference.abs().max() < 5e-5


def operations(module: torch.jit.ScriptModule, positions: Tensor) -> list[str]:
    """Return the names of the operations of one call, sorted."""
    for _ in range(3):  # until it has optimized itself
        module(positions)
    with torch.autograd.profiler.profile() as profile:
        module(positions)
    return sorted(event.name for event in profile.function_events)


def test_a_direct_head_costs_nothing_at_run_time() -> None:
    """The modules of a model with both forces compute what conservative ones do."""
    species, atoms = torch.tensor([1, 0, 0]), torch.arange(3)
    positions = 0.1 * torch.tensor(WATER)
    counted, energies = [], []
    for force_mode in ("conservative", "both"):
        changes = {"layers": 2, "lmax": 1, "force_mode": force_mode}
        network = random_network(**changes)
        generic = torch.jit.script(modules.GenericForce(network).eval())
        generic.set_atoms(species, atoms, 0.0)
        static = modules.specialize(network, species, atoms, 3, 0.0, positions)
        counted.append([operations(module, positions) for module in (generic, static)])
        energies.append([module(positions)[0].item() for module in (generic, static)])
    assert counted[0] == counted[1]
    assert min(map(len, counted[0])) > 20
    assert energies[0] == energies[1]
    # Control: with the head there are more.
    with torch.autograd.profiler.profile() as profile:
        ForceField(network).with_direct_forces(10.0 * positions, species, all_pairs(3))
    with_head = len(profile.function_events)
    with torch.autograd.profiler.profile() as profile:
        ForceField(network)(10.0 * positions, species, all_pairs(3))
    assert with_head > len(profile.function_events)


@pytest.mark.parametrize("everything", [True, False], ids=["all atoms", "some atoms"])
def test_the_recorded_graph_can_be_captured_on_a_gpu(everything: bool) -> None:
    """Nothing stays on the CPU or waits for a number; on "meta" there is none."""
    n_particles = 3 if everything else 4
    positions = torch.zeros(n_particles, 3, dtype=torch.float64)
    positions[:3] = 0.1 * torch.tensor(WATER)
    module = modules.specialize(
        random_network(),
        torch.tensor([1, 0, 0]),
        torch.arange(3),
        n_particles,
        0.0,
        positions,
    )
    (graph,) = module.children()
    energy, forces = graph.to("meta")(positions.to("meta"))
    assert (energy.device.type, energy.shape) == ("meta", (1,))
    assert (forces.device.type, forces.shape) == ("meta", (n_particles, 3))
    assert "Device" not in str(graph.inlined_graph)
    # Controls: a number that is waited for, and a tensor that is made on the CPU.
    waiting, cpu = (
        torch.jit.CompilationUnit(f"def forward(x):\n    return {body}\n")
        for body in ("x * float(x.sum())", "x + torch.ones([3], device='cpu')")
    )
    assert "Device" in str(cpu.forward.inlined_graph)
    for control in (waiting, cpu):
        assert control.forward(positions).shape == positions.shape
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            control.forward(positions.to("meta"))


def test_a_script_without_atoms_says_what_to_do(random_model: Path) -> None:
    import vesin_torch  # noqa: F401

    script = torch.jit.load(random_model / "model.pt")
    with pytest.raises(torch.jit.Error, match="call set_atoms, or .*export --topology"):
        script(torch.zeros(3, 3))


def test_an_existing_model_is_not_overwritten(tmp_path: Path) -> None:
    folder = write_random_model(tmp_path / "one", **SMALLEST)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(FileExistsError, match="holds a model; --overwrite replaces it"):
        export_model(random_checkpoint(**SMALLEST), folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    other = random_checkpoint(**{**SMALLEST, "cutoff": 5.0})
    export_model(other, folder, overwrite=True)
    assert load_model(folder).config.cutoff == 5.0
    assert load_model(folder / "model.pt").config.cutoff == 5.0


# ------------------------------------------------- what must not be written


def test_a_script_that_differs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules, "EV_TO_KJ_PER_MOL", 1.01 * KJ_PER_MOL)
    with pytest.raises(ExportError, match="differs from the network by .* for 2 atoms"):
        write_random_model(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_script_that_differs_in_forces_only_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules, "EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM", 960.0)
    with pytest.raises(ExportError, match="differs from the network"):
        write_random_model(tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fault", ["energy", "forces", "nan", "gradient"])
def test_a_fault_in_a_late_call_is_found(fault: str) -> None:
    """TorchScript has been right at first and wrong after its own optimization."""

    def expected(positions: Tensor) -> tuple[Tensor, Tensor]:
        return positions.square().sum().view(1), -2.0 * positions

    calls = 0

    def module(positions: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        energy, forces = expected(positions.detach())
        if calls == 18 and fault == "energy":
            energy = energy + 1.0
        if calls == 18 and fault == "forces":
            forces = forces.flip(0)
        if calls == 18 and fault == "nan":
            forces[0] = torch.nan
        if calls == 18 and fault == "gradient":
            energy = energy + 0.0 * positions.sum()
        return energy, forces

    positions = checks.random_positions(5)
    assert checks.largest_difference(expected, expected, positions) == float("inf"), (
        "results that keep a graph are refused"
    )
    limit = checks.TOLERANCE["single"]
    assert checks.largest_difference(module, expected, positions) > limit
    assert calls >= 18


@pytest.mark.parametrize("box", [None, 10.0 * np.eye(3)], ids=["free", "periodic"])
def test_a_force_that_differs_is_refused(
    box: np.ndarray | None, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for the module that is made for the atoms of a System."""
    potential = SE3Potential(random_model, backend="torchforce")
    monkeypatch.setattr(modules, "EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM", 960.0)
    with pytest.raises(ExportError, match="differs from the network"):
        potential.createSystem(topology_of(["O", "H", "H"], box))


@pytest.mark.parametrize("box", [None, 10.0 * np.eye(3)], ids=["free", "periodic"])
def test_a_force_is_compared_over_many_calls(
    box: np.ndarray | None, smallest_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "CALLS", checks.CALLS)  # fewer in all other tests
    seen = []

    def watched(module: Any, expected: Any, *rest: Any) -> float:
        def called(positions: Tensor) -> Any:
            seen.append(positions)
            return module(positions)

        return checks.require_equal(called, expected, *rest)

    monkeypatch.setattr(build, "require_equal", watched)
    SE3Potential(smallest_model).createSystem(topology_of(["O", "H", "H"], box))
    assert len(seen) == 20


def test_a_changed_equation_is_noticed(
    random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_model(random_model)

    def other(self: Envelope, distance: Tensor) -> Tensor:
        return (1.0 - (distance / self.cutoff).pow(4)).clamp(min=0.0).pow(4)

    monkeypatch.setattr(Envelope, "forward", other)
    for path in (random_model, random_model / "model.pt"):
        with pytest.raises(ModelFileError, match="gives other energies than"):
            load_model(path)
