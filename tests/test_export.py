"""Model files: equal to the network they come from, refused when not ours."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from openmm import app, unit
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
from torch import Tensor, nn

from openmm_se3 import SE3Potential, cli
from openmm_se3.description import UNITS, ModelFileError
from openmm_se3.export import CHECKED_SIZES, export_model, export_topology
from openmm_se3.model_file import load_model
from openmm_se3.neighbors import all_pairs, neighbour_pairs
from openmm_se3.nn.radial import Envelope
from openmm_se3.torchscript import modules
from openmm_se3.torchscript import self_check as checks
from openmm_se3.torchscript.self_check import ExportError
from openmm_se3.training.checkpoint import save_checkpoint

# The cheapest network; for what does not depend on its equations.
KJ_PER_MOL = 96.48533212331  # in 1 eV
TRICLINIC = torch.tensor([[7.0, 0.0, 0.0], [2.0, 6.0, 0.0], [-1.5, 2.5, 6.5]]).double()


def description_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


# ---------------------------------------------------------------- what is written


def test_folder_and_script_hold_the_same_model(random_model: Path) -> None:
    checkpoint = random_checkpoint()
    for path in (random_model, random_model / "model.pt", str(random_model)):
        model = load_model(path)
        assert model.config == small_config()
        assert model.metadata == description_of(random_model)
        assert model.weights.keys() == checkpoint["average"].keys()
        for name, tensor in model.weights.items():
            assert torch.equal(tensor, checkpoint["average"][name])


def test_the_description_says_what_the_model_is(random_model: Path) -> None:
    metadata = load_model(random_model).metadata
    assert metadata["format"] == "openmm-se3 model"
    assert metadata["format_version"] == 1
    assert metadata["name"] == random_model.name
    assert metadata["units"] == UNITS
    assert metadata["model"]["elements"] == ["H", "O"]
    assert metadata["model"]["cutoff"] == 4.0
    assert metadata["self_energies"] == SELF_ENERGIES
    assert metadata["licence"] == "MIT"
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
    import vesin_torch  # noqa: F401  (opens the neighbour list inside)

    script = torch.jit.load(random_model / "model.pt")
    network = load_model(random_model).network(torch.float32)
    box = () if cell is None else (0.1 * cell,)
    for call in range(20):
        for n_molecules in (1, 2, 4):
            species, positions = water_cluster(n_molecules, seed=call)
            positions = positions.to(positions_dtype)
            script.set_atoms(species, torch.arange(len(species)), 0.0)
            energy, forces = script((0.1 * positions).requires_grad_(), *box)
            edges = neighbour_pairs(positions, 4.0, cell)
            expected, expected_forces = network.energy_and_forces(
                positions, species, *edges
            )
            assert not energy.requires_grad and not forces.requires_grad
            assert energy.dtype == forces.dtype == positions_dtype
            assert forces.is_contiguous()
            error = abs(energy.item() / KJ_PER_MOL - expected.item())
            assert error < 5e-5 * len(species)
            difference = forces / (10.0 * KJ_PER_MOL) - expected_forces
            assert difference.abs().max() < 5e-5


def operations(module: torch.jit.ScriptModule, positions: Tensor) -> list[str]:
    """Return the names of the operations of one call, sorted."""
    for _ in range(3):  # until it has optimised itself
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
        static = modules.specialise(network, species, atoms, 3, 0.0, positions)
        counted.append([operations(module, positions) for module in (generic, static)])
        energies.append([module(positions)[0].item() for module in (generic, static)])
    assert counted[0] == counted[1]
    assert min(map(len, counted[0])) > 20
    assert energies[0] == energies[1]
    # Control: with the head there are more.
    with torch.autograd.profiler.profile() as profile:
        network.energy_and_both_forces(10.0 * positions, species, *all_pairs(3))
    with_head = len(profile.function_events)
    with torch.autograd.profiler.profile() as profile:
        network.energy_and_forces(10.0 * positions, species, *all_pairs(3))
    assert with_head > len(profile.function_events)


@pytest.mark.parametrize("everything", [True, False], ids=["all atoms", "some atoms"])
def test_the_recorded_graph_can_be_captured_on_a_gpu(everything: bool) -> None:
    """Nothing stays on the CPU or waits for a number; on "meta" there is none."""
    n_particles = 3 if everything else 4
    positions = torch.zeros(n_particles, 3, dtype=torch.float64)
    positions[:3] = 0.1 * torch.tensor(WATER)
    module = modules.specialise(
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
    """TorchScript has been right at first and wrong after its own optimisation."""

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


# ------------------------------------------------------------ what is refused


@pytest.fixture(scope="module")
def smallest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(
        tmp_path_factory.mktemp("models") / "smallest", **SMALLEST
    )


@pytest.fixture
def model(smallest: Path, tmp_path: Path) -> Path:
    """A copy of a model folder, to be spoilt."""
    return Path(shutil.copytree(smallest, tmp_path / "model"))


def change(folder: Path, **fields: Any) -> None:
    """Replace fields of the description; None takes a field out."""
    content = {**description_of(folder), **fields}
    content = {key: value for key, value in content.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(content))


def change_model(folder: Path, **fields: Any) -> None:
    change(folder, model={**description_of(folder)["model"], **fields})


def change_reference(folder: Path, **fields: Any) -> None:
    change(folder, reference={**description_of(folder)["reference"], **fields})


def write_weights(folder: Path, content: bytes) -> None:
    """Replace the weights and their hash, as somebody who means harm would."""
    (folder / "weights.safetensors").write_bytes(content)
    change(folder, weights_sha256=hashlib.sha256(content).hexdigest())


def change_weights(folder: Path, edit: Callable[[dict[str, Tensor]], Any]) -> None:
    weights = safetensors.torch.load((folder / "weights.safetensors").read_bytes())
    edit(weights)
    write_weights(folder, safetensors.torch.save(weights))


def flip_byte_of_weights(folder: Path) -> None:
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-3] ^= 0x10
    (folder / "weights.safetensors").write_bytes(bytes(content))


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no description": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "no weights": (
        lambda f: (f / "weights.safetensors").unlink(),
        "has no weights.safetensors",
    ),
    "not JSON": (
        lambda f: (f / "config.json").write_text("<html>Not found</html>"),
        "config.json is not JSON",
    ),
    "not text": (
        lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00\x80"),
        "config.json is not JSON",
    ),
    "deep JSON": (
        lambda f: (f / "config.json").write_text("[" * 100_000),
        "config.json is not JSON",
    ),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "does not describe"),
    "of another program": (
        lambda f: (f / "config.json").write_text('{"model_type": "bert"}'),
        "does not describe an openmm-se3 model",
    ),
    "newer": (lambda f: change(f, format_version=3), "version 3.*upgrade openmm-se3"),
    "no version": (lambda f: change(f, format_version=None), "format version None"),
    "no units": (lambda f: change(f, units=None), r"lacks \['units'\]"),
    "other units": (
        lambda f: change(f, units={**UNITS, "energy": "hartree"}),
        "units are .*hartree.*expected",
    ),
    "no network": (lambda f: change(f, model=None), r"lacks \['model'\]"),
    "no elements": (
        lambda f: change(f, model={"cutoff": 4.0}),
        r"needs \['elements'\]",
    ),
    "network of another kind": (lambda f: change(f, model=[1, 2]), "model"),
    "unknown key": (lambda f: change_model(f, chanels=4), "did you mean 'channels'"),
    "wrong type": (lambda f: change_model(f, layers="three"), "layers must be int"),
    "other cutoff": (lambda f: change_model(f, cutoff=4.5), "gives other energies"),
    "other elements": (
        lambda f: change_model(f, elements=["O", "H"]),
        "gives other energies",
    ),
    "other shape": (
        lambda f: change_model(f, channels=4),
        "weights and config disagree.*size mismatch",
    ),
    "other layers": (
        lambda f: change_model(f, layers=2),
        r"weights and config disagree.*attention\.1",
    ),
    "no self-energies": (
        lambda f: change(f, self_energies={"H": -13.5}),
        r"no self-energies of \['O'\]",
    ),
    "self-energy not a number": (
        lambda f: change(f, self_energies={"H": -13.5, "O": "NaN"}),
        "self-energ",
    ),
    "self-energy NaN": (
        lambda f: change(f, self_energies={"H": -13.5, "O": float("nan")}),
        "self-energ",
    ),
    "other hash": (
        lambda f: change(f, weights_sha256="0" * 64),
        "does not match its SHA-256",
    ),
    "no hash": (lambda f: change(f, weights_sha256=None), "SHA-256"),
    "one bit": (flip_byte_of_weights, "does not match its SHA-256"),
    "empty weights": (lambda f: write_weights(f, b""), "cannot be read"),
    "pickled weights": (
        lambda f: write_weights(f, pickle.dumps({"weight": [1.0]})),
        "cannot be read",
    ),
    "NaN weights": (
        lambda f: change_weights(
            f, lambda w: w["energy_head.0.weight"].fill_(float("nan"))
        ),
        r"NaN or infinite weights in \['energy_head.0.weight'\]",
    ),
    "other weights": (
        lambda f: change_weights(f, lambda w: w["energy_head.2.weight"].mul_(1.01)),
        "gives other energies",
    ),
    "weight missing": (
        lambda f: change_weights(f, lambda w: w.pop("energy_head.0.weight")),
        "weights and config disagree.*Missing key.*energy_head.0.weight",
    ),
    "weight too many": (
        lambda f: change_weights(f, lambda w: w.update(more=torch.zeros(1))),
        "weights and config disagree.*Unexpected key.*more",
    ),
    "no reference": (lambda f: change(f, reference=None), r"lacks \['reference'\]"),
    "empty reference": (lambda f: change(f, reference={}), "reference"),
    "reference of nothing": (
        lambda f: change_reference(f, symbols=[], positions=[], forces=[]),
        "reference",
    ),
    "reference of other elements": (
        lambda f: change_reference(f, symbols=["C", "H", "H"]),
        "reference",
    ),
    "reference NaN": (
        lambda f: change_reference(f, energy=float("nan")),
        "gives other energies",
    ),
}


def in_archive(folder: Path) -> Path:
    """Put a folder's description and weights into its model.pt as they are."""
    source, target = folder / "model.pt", folder / "spoilt.pt"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            replacement = folder / Path(info.filename).name
            if "/extra/" in info.filename:
                if not replacement.exists():
                    continue
                content = replacement.read_bytes()
            new.writestr(info.filename, content)
    return target


@pytest.mark.parametrize("place", ["folder", "archive"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_spoilt_model_is_refused(fault: str, place: str, model: Path) -> None:
    spoil, message = FAULTS[fault]
    spoil(model)
    if place == "archive":
        model = in_archive(model)
        message = message.replace("has no ", "holds no ")
    with pytest.raises(ModelFileError, match=f"(?s){message}"):
        load_model(model)


def test_the_spoilt_archives_are_whole_otherwise(model: Path) -> None:
    """The control of the test above."""
    assert load_model(in_archive(model)).metadata == description_of(model)


def test_weights_cut_short_are_refused(model: Path) -> None:
    content = (model / "weights.safetensors").read_bytes()
    for share in (0.25, 0.5, 0.99):
        write_weights(model, content[: int(share * len(content))])
        with pytest.raises(ModelFileError, match="weights.safetensors cannot be read"):
            load_model(model)


def not_ours(folder: Path) -> dict[str, Path]:
    """Write files of other kinds under the name of a model."""
    whole = (folder / "model.pt").read_bytes()
    contents = {
        "empty": b"",
        "page": b"<!DOCTYPE html><html>404</html>",
        "xyz": b"1\n\nH 0.0 0.0 0.0\n",
        "pickle": pickle.dumps({"weight": [1.0]}),
        "safetensors": (folder / "weights.safetensors").read_bytes(),
        "cut at 25 %": whole[: len(whole) // 4],
        "cut at 50 %": whole[: len(whole) // 2],
        "cut at 99 %": whole[: 99 * len(whole) // 100],
    }
    files = {}
    for name, content in contents.items():
        files[name] = folder / f"{name}.pt"
        files[name].write_bytes(content)
    files["state_dict"] = folder / "state_dict.pt"
    torch.save({"weight": torch.zeros(3)}, files["state_dict"])
    files["foreign zip"] = folder / "foreign.zip"
    with zipfile.ZipFile(files["foreign zip"], "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("weights.safetensors", b"")
    files["script of another program"] = folder / "foreign.pt"
    torch.jit.save(
        torch.jit.script(nn.Linear(2, 2)), files["script of another program"]
    )
    return files


def test_files_of_other_kinds_are_refused(model: Path) -> None:
    for name, path in not_ours(model).items():
        with pytest.raises(ModelFileError) as error:
            load_model(path)
        message = str(error.value)
        assert str(path) in message, name
        assert "openmm-se3 export" in message, name


def test_folders_of_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="not a model folder"):
        load_model(tmp_path)
    (tmp_path / "best.pt").touch()
    with pytest.raises(ModelFileError, match="checkpoint to 'openmm-se3 export' first"):
        load_model(tmp_path)


def test_what_does_not_exist_names_what_does(tmp_path: Path) -> None:
    for name in (
        "watre",
        "../water",
        "https://example.org/model.pt",
        tmp_path / "no.pt",
    ):
        with pytest.raises(FileNotFoundError, match="no model .*shipped models are"):
            load_model(name)


def test_a_model_of_the_users_own_comes_before_the_shipped_one(
    smallest_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = load_model("water").metadata["weights_sha256"]
    (tmp_path / "water").mkdir()  # a folder of anything
    assert load_model("water").metadata["weights_sha256"] == shipped
    (tmp_path / "water" / "best.pt").write_bytes(b"")  # a training run
    with pytest.warns(UserWarning, match="shipped model water is taken"):
        assert load_model("water").metadata["weights_sha256"] == shipped
    shutil.rmtree(tmp_path / "water")
    shutil.copytree(smallest_model, tmp_path / "water")
    own = load_model(smallest_model).metadata["weights_sha256"]
    with pytest.warns(UserWarning, match=re.escape(str(tmp_path / "water"))):
        assert load_model("water").metadata["weights_sha256"] == own
    assert load_model("./water").metadata["weights_sha256"] == own  # no warning


def test_any_damaged_byte_is_refused_or_harmless(model: Path) -> None:
    """Bytes changed anywhere in model.pt: the right weights, or a ModelFileError."""
    path = model / "model.pt"
    whole = path.read_bytes()
    expected = load_model(path)
    rng = np.random.default_rng(0)
    # The directory at the end is where a reader of archives is led astray.
    end = range(len(whole) - 600, len(whole), 7)
    for position in [*rng.integers(0, len(whole), 60).tolist(), *end]:
        damaged = bytearray(whole)
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(damaged))
        try:
            loaded = load_model(path)
        except ModelFileError:
            continue
        assert loaded.metadata == expected.metadata, position
        for name, tensor in loaded.weights.items():
            assert torch.equal(tensor, expected.weights[name]), position


def test_compressed_and_oversized_contents_are_refused(model: Path) -> None:
    """A small file must not be able to fill the memory."""
    bomb = model / "bomb.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/extra/config.json", (model / "config.json").read_bytes())
        archive.writestr("m/extra/weights.safetensors", b"\0" * (1 << 24))
    with pytest.raises(ModelFileError, match="compressed or too large"):
        load_model(bomb)
    with zipfile.ZipFile(bomb, "w") as archive:
        archive.writestr("m/extra/config.json", (model / "config.json").read_bytes())
        archive.writestr("m/extra/weights.safetensors", b"\0" * 100)
    content = bytearray(bomb.read_bytes())
    # Sizes in the directory's last entry: 2 GiB, or 1 GB which is read no further.
    entry = content.rindex(b"PK\x01\x02")
    for size, message in ((1 << 31, "compressed or too large"), (10**9, "damaged")):
        content[entry + 20 : entry + 28] = struct.pack("<II", size, size)
        bomb.write_bytes(bytes(content))
        with pytest.raises(ModelFileError, match=message):
            load_model(bomb)


# ------------------------------------------------------------ what must not run


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


class MaliciousModule(nn.Module):
    """Writes a file when it is loaded, with TorchScript's own means."""

    def __init__(self, canary: str) -> None:
        super().__init__()
        self.canary = canary
        self.content = torch.zeros(1)

    def forward(self, positions: Tensor) -> Tensor:
        return positions.sum()

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, str, bool]:
        return self.content, self.canary, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, str, bool]) -> None:
        self.content, self.canary, self.training = state
        torch.save(self.content, self.canary)


@pytest.fixture
def malicious_files(model: Path, tmp_path: Path) -> tuple[Path, dict[str, Path]]:
    """Files that create the first path if any code in them runs."""
    canary = tmp_path / "canary"
    files = {name: tmp_path / f"{name}.pt" for name in ("pickle", "torch", "script")}
    files["pickle"].write_bytes(pickle.dumps(Malicious(canary)))
    torch.save({"weight": Malicious(canary)}, files["torch"])
    script = torch.jit.script(MaliciousModule(str(canary)))
    torch.jit.save(script, files["script"])
    parts = {
        n: (model / n).read_bytes() for n in ("config.json", "weights.safetensors")
    }
    files["script with a true model"] = tmp_path / "both.pt"
    torch.jit.save(script, files["script with a true model"], _extra_files=parts)
    files["pickled weights"] = model
    write_weights(model, pickle.dumps(Malicious(canary)))
    return canary, files


def test_the_malicious_files_would_do_it(
    malicious_files: tuple[Path, dict[str, Path]],
) -> None:
    """The control of the tests below."""
    canary, files = malicious_files
    pickle.loads(files["pickle"].read_bytes())
    canary.rmdir()
    torch.load(files["torch"], weights_only=False)
    canary.rmdir()
    for name in ("script", "script with a true model"):
        torch.jit.load(files[name])
        canary.unlink()


def test_no_code_in_a_model_file_runs(
    malicious_files: tuple[Path, dict[str, Path]],
) -> None:
    canary, files = malicious_files
    for name, path in files.items():
        if name == "script with a true model":
            # The model is read, the script beside it is not.
            potential = SE3Potential(path)
            potential.createSystem(topology_of(["O"]))
            assert potential.energy_and_forces([8], [[0.0, 0.0, 0.0]])[0] == (
                pytest.approx(0.0, abs=1e-5)
            )
        else:
            with pytest.raises(ModelFileError):
                load_model(path)
        assert not canary.exists(), name


def test_no_code_in_a_checkpoint_runs(
    malicious_files: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    canary, files = malicious_files
    for path in files.values():
        arguments = ["export", str(path), "--out", str(tmp_path / "out")]
        result = CliRunner().invoke(cli.main, arguments)
        assert result.exit_code == 2, result.output
        assert "Traceback" not in result.output
        assert not canary.exists()
        assert not (tmp_path / "out").exists()


# ---------------------------------------------------------- files of one topology


def write_pdb(path: Path, symbols: list[str], positions: np.ndarray) -> Path:
    with open(path, "w") as file:
        app.PDBFile.writeFile(topology_of(symbols), positions * unit.angstrom, file)
    return path


BARE = """
import json, sys
import torch, openmm, openmmtorch
results = []
for file in sys.argv[2:]:
    force = openmmtorch.TorchForce(file)
    force.setOutputsForces(True)
    system = openmm.System()
    system.addForce(force)
    positions = json.loads(sys.argv[1])
    for _ in positions:
        system.addParticle(1.0)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(positions)
    state = context.getState(getEnergy=True, getForces=True)
    forces = state.getForces(asNumpy=True)._value.tolist()
    results.append([state.getPotentialEnergy()._value, forces])
assert not any(name.startswith(("openmm_se3", "vesin")) for name in sys.modules)
print(json.dumps(results))
"""


def test_a_bare_torchforce_runs_a_baked_file(
    random_model: Path, tmp_path: Path
) -> None:
    tolerances = {"single": 5e-5, "double": 1e-9}
    pdb = write_pdb(tmp_path / "water.pdb", ["O", "H", "H", "H"], np.zeros((4, 3)))
    export = ["export", str(random_model), "--topology", str(pdb), "--precision"]
    outputs = {precision: tmp_path / f"{precision}.pt" for precision in tolerances}
    for precision, output in outputs.items():
        arguments = [*export, precision, "-o", str(output)]
        result = CliRunner().invoke(cli.main, arguments)
        assert result.exit_code == 0, result.output
        assert f'TorchForce("{output}")' in result.output
        for line in ("import torch", "from openmmtorch import TorchForce"):
            assert line in result.output
    again = CliRunner().invoke(cli.main, arguments)
    assert again.exit_code == 2
    assert "exists; --overwrite replaces it" in again.output

    positions = np.concatenate([WATER, [[0.3, -1.5, 0.4]]])
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    process = subprocess.run(
        [sys.executable, "-c", BARE, json.dumps((0.1 * positions).tolist())]
        + [str(output) for output in outputs.values()],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert process.returncode == 0, process.stderr
    results = json.loads(process.stdout.splitlines()[-1])
    for (precision, tolerance), (energy, forces) in zip(
        tolerances.items(), results, strict=True
    ):
        potential = SE3Potential(random_model, precision=precision)
        expected, forces_expected = potential.energy_and_forces([8, 1, 1, 1], positions)
        assert energy / KJ_PER_MOL == pytest.approx(expected, abs=tolerance)
        difference = np.array(forces) / (10.0 * KJ_PER_MOL) - forces_expected
        assert np.abs(difference).max() < tolerance
        # It says what it is, as every model file does.
        assert load_model(outputs[precision]).metadata == description_of(random_model)


def test_topologies_that_cannot_be_baked(smallest: Path, tmp_path: Path) -> None:
    model = load_model(smallest)
    output = tmp_path / "out.pt"
    foreign = write_pdb(tmp_path / "c.pdb", ["O", "C"], np.zeros((2, 3)))
    with pytest.raises(
        ValueError,
        match=r"holds \['C'\]; the model knows \['H', 'O'\]; "
        r"the first such atom is C\w* of MOL 1, serial number 2",
    ):
        export_topology(model, foreign, output)
    with pytest.raises(FileNotFoundError, match="no topology file"):
        export_topology(model, tmp_path / "none.pdb", output)
    boxed = write_pdb(tmp_path / "box.pdb", ["O"], np.zeros((1, 3)))
    boxed.write_text(
        "CRYST1   20.000   20.000   20.000  90.00  90.00  90.00 P 1\n"
        + boxed.read_text()
    )
    with pytest.raises(ValueError, match="has a box.*use SE3Potential.createSystem"):
        export_topology(model, boxed, output)
    garbage = tmp_path / "garbage.pdb"
    garbage.write_text("this is no PDB file\n")
    with pytest.raises(ValueError, match="garbage.pdb"):
        export_topology(model, garbage, output)
    xyz = tmp_path / "w.xyz"
    xyz.write_text("1\n\nO 0 0 0\n")
    with pytest.raises(ValueError, match=r"w\.xyz is not a PDB file, .* converted"):
        export_topology(model, xyz, output)
    xyz.with_suffix(".pdb").write_text("MODEL        1\nENDMDL\nEND\n")
    with pytest.raises(ValueError, match=r"w\.pdb holds no atoms: give a PDB file"):
        export_topology(model, xyz.with_suffix(".pdb"), output)
    assert not output.exists()


# ----------------------------------------------------------- the command line


def test_a_checkpoint_becomes_a_model(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    save_checkpoint(run / "best.pt", random_checkpoint(**SMALLEST))
    for source in (run, run / "best.pt"):
        out = tmp_path / f"from-{source.name}"
        arguments = ["export", str(source), "--out", str(out), "--licence", "CC0-1.0"]
        result = CliRunner().invoke(cli.main, arguments)
        assert result.exit_code == 0, result.output
        assert result.output.count("export: comparing") == 2 * len(CHECKED_SIZES)
        assert load_model(out).metadata["licence"] == "CC0-1.0"
        assert load_model(out).metadata["name"] == out.name
        again = CliRunner().invoke(cli.main, arguments)
        assert again.exit_code == 2
        assert "--overwrite replaces it" in again.output
    assert CliRunner().invoke(cli.main, [*arguments, "--overwrite"]).exit_code == 0


def test_a_checkpoint_can_be_baked_at_once(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "best.pt", random_checkpoint(**SMALLEST))
    pdb = write_pdb(tmp_path / "h.pdb", ["H", "H"], np.zeros((2, 3)))
    output = tmp_path / "h2.pt"
    arguments = ["export", str(tmp_path), "--topology", str(pdb), "--out", str(output)]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 0, result.output
    energy, forces = torch.jit.load(output)(torch.tensor([[0.0, 0, 0], [0.08, 0, 0]]))
    assert forces.shape == (2, 3)


def test_what_is_no_checkpoint_is_refused(smallest: Path, tmp_path: Path) -> None:
    for source in (smallest, smallest / "model.pt", tmp_path / "nothing.pt"):
        arguments = ["export", str(source), "--out", str(tmp_path / "out")]
        result = CliRunner().invoke(cli.main, arguments)
        assert result.exit_code == 2, result.output
        assert source.name in result.output
        assert "Traceback" not in result.output
        assert not (tmp_path / "out").exists()


def test_a_model_is_not_exported_again(smallest: Path, tmp_path: Path) -> None:
    for source in ("water", str(smallest), str(smallest / "model.pt")):
        arguments = ["export", source, "--out", str(tmp_path / "out")]
        result = CliRunner().invoke(cli.main, arguments)
        assert result.exit_code == 2, result.output
        assert f"{source} is a model already" in result.output
        assert "give --topology FILE.pdb" in result.output


def test_the_structure_kept_for_checks_can_be_given(tmp_path: Path) -> None:
    checkpoint, start = tmp_path / "best.pt", tmp_path / "water.pdb"
    save_checkpoint(checkpoint, random_checkpoint(**SMALLEST))
    out = tmp_path / "model"
    arguments = ["export", str(checkpoint), "-o", str(out), "--reference", str(start)]
    for box in (None, 10.0 * np.eye(3)):
        topology = topology_of(["O", "H", "H"], box)
        with start.open("w") as file:
            app.PDBFile.writeFile(topology, WATER * unit.angstrom, file)
        result = CliRunner().invoke(cli.main, [*arguments, "--overwrite"])
        if box is None:
            assert result.exit_code == 0, result.output
            reference = description_of(out)["reference"]
            assert reference["symbols"] == ["O", "H", "H"]
            np.testing.assert_allclose(reference["positions"], WATER, atol=1e-3)
        else:
            assert result.exit_code == 2
            assert "has a box: give free molecules" in result.output
