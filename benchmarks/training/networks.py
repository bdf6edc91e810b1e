"""The networks whose training steps are timed, and a step of each.

Packages are imported where they are used, since each network has an environment of its
own, and importing NVIDIA's changes TorchScript for a whole process.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from graphs import batch as batch_graphs
from torch import Tensor

from openmm_se3.data.formats.hdf5 import read_hdf5
from openmm_se3.data.frames import Frames
from openmm_se3.nn.force_field import ForceField
from openmm_se3.training.batches import FrameGraphs

DATA = Path(__file__).parents[2] / "models/water/data"
ELEMENTS, CUTOFF = ("H", "O"), 6.0
LAYERS, CHANNELS, HEADS, LMAX = 3, 32, 8, 2
MACE_LAYERS = 2  # as in all of its published models
TASKS = ("forces", "energy")


@dataclasses.dataclass(frozen=True)
class Job:
    """What one process measures.

    Attributes:
        network: One of ``NETWORKS``.
        task: One of ``TASKS``.
        batch: Frames of a batch.
        molecules: Water molecules of a frame.
        seconds: About how long a round lasts, s.
        source: Folder of NVIDIA's files.
    """

    network: str
    task: str
    batch: int
    molecules: int
    seconds: float
    source: str


@dataclasses.dataclass(frozen=True)
class Batch:
    """Labeled frames.

    Attributes:
        frames: The frames.
        graph: All of them as one graph.
        energies: Energies against isolated atoms [n_frames], eV.
        forces: Forces [n_atoms, 3], eV/A.
    """

    frames: Frames
    graph: Any
    energies: Tensor
    forces: Tensor


def read_batch(batch: int, molecules: int) -> Batch:
    """Return the first frames of so many water molecules.

    Raises:
        ValueError: There are not so many.
    """
    path = DATA / f"water{molecules}.h5"
    dataset = read_hdf5(path)
    frames = dataset.frames[:batch]
    if len(frames) < batch:
        raise ValueError(f"{path.name} holds {len(frames)} frames only")
    graphs = FrameGraphs(
        frames, ELEMENTS, CUTOFF, dataset.self_energies, np.ones(batch)
    )
    graph, labels = batch_graphs(graphs, np.arange(batch))
    return Batch(frames, graph, labels["energy"], graph.ndata["forces"])


# Energies of the batch [n_frames], and forces [n_atoms, 3] where they are trained.
Predict = Callable[[], tuple[Tensor, Tensor | None]]
Made = tuple[torch.nn.Module, Predict]


def ours(implementation: str, **changes: Any) -> Callable[[Batch, Job], Made]:
    """Return what makes our network, with changes to the default."""

    def make(batch: Batch, job: Job) -> Made:
        from openmm_se3.compiled.training import CompiledBatches
        from openmm_se3.config import ModelConfig
        from openmm_se3.nn.transformer import SE3Transformer
        from openmm_se3.training.batches import graph_tensors

        config = ModelConfig(
            elements=ELEMENTS,
            cutoff=CUTOFF,
            layers=LAYERS,
            channels=CHANNELS,
            key_channels=CHANNELS // 2,
            heads=HEADS,
            lmax=LMAX,
            **{"self_interaction": "attentive", **changes},
        )
        network = SE3Transformer(config).float()
        tensors = graph_tensors(batch.graph)

        def compiled_predict() -> tuple[Tensor, Tensor | None]:
            energies, forces = compiled.energy_and_forces(network, **vars(tensors))
            return energies, None if job.task == "energy" else forces

        if implementation == "compiled":
            compiled = CompiledBatches(network)
            return network, compiled_predict
        if job.task == "energy":
            return network, lambda: (
                ForceField(network).energies(**vars(tensors)),
                None,
            )
        return network, lambda: ForceField(network)(**vars(tensors), create_graph=True)

    return make


def nvidia(batch: Batch, job: Job, low_memory: bool = False) -> Made:
    """Make NVIDIA's network; its basis is computed before where no forces are."""
    from nvidia_network import ForceField

    network = ForceField(
        Path(job.source),
        len(ELEMENTS),
        LAYERS,
        CHANNELS,
        LMAX + 1,
        HEADS,
        low_memory=low_memory,
    )
    if job.task == "energy":
        vectors = network.edge_vectors(batch.graph)
        basis = network.basis(vectors)
        return network, lambda: (
            network.molecule_energies(batch.graph, vectors, basis),
            None,
        )
    return network, lambda: network.energy_and_forces(batch.graph, create_graph=True)


def mace(batch: Batch, job: Job) -> Made:
    """Make MACE; what is not named here is a default of ``mace_run_train``."""
    from ase import Atoms
    from mace import data, modules, tools
    from mace.tools import torch_geometric
    from mace.tools.model_script_utils import configure_model

    arguments = [f"--num_channels={CHANNELS}", f"--max_L={LMAX}", f"--max_ell={LMAX}"]
    arguments += [f"--num_interactions={MACE_LAYERS}", f"--r_max={CUTOFF}"]
    parser = tools.build_default_arg_parser()
    args, _ = tools.check_args(
        parser.parse_args([*arguments, "--name=benchmark", "--default_dtype=float32"])
    )
    args.compute_energy, args.compute_dipole = True, False
    torch.set_default_dtype(torch.float32)
    numbers = sorted({int(n) for frame in batch.frames for n in frame.numbers})
    table = tools.AtomicNumberTable(numbers)
    atoms = [Atoms(frame.numbers, frame.positions) for frame in batch.frames]
    read = [
        data.AtomicData.from_config(data.config_from_atoms(one), table, CUTOFF)
        for one in atoms
    ]
    loader = torch_geometric.dataloader.DataLoader(read, len(read))
    args.avg_num_neighbors = modules.compute_avg_num_neighbors(loader)
    network, _ = configure_model(
        args, loader, np.zeros((1, len(table))), heads=["Default"], z_table=table
    )
    inputs = next(iter(loader))
    forces = job.task == "forces"

    def predict() -> tuple[Tensor, Tensor | None]:
        output = network(inputs.to_dict(), training=True, compute_force=forces)
        return output["energy"], output["forces"] if forces else None

    return network, predict


@dataclasses.dataclass(frozen=True)
class Network:
    """A network that is compared.

    Attributes:
        label: What it is called.
        environment: Where it runs, see ``environments.ENVIRONMENTS``.
        make: Makes it, and what it predicts for a batch.
        tasks: What it can be trained on.
    """

    label: str
    environment: str
    make: Callable[[Batch, Job], Made]
    tasks: tuple[str, ...] = TASKS


NETWORKS = {
    "compiled": Network("ours, compiled", "ours", ours("compiled", jmax=2)),
    "pytorch": Network("ours, PyTorch", "ours", ours("pytorch", jmax=2)),
    "full": Network(
        "ours, full kernels, PyTorch",
        "ours",
        ours("pytorch", kernel="full", symmetry="SO(3)"),
    ),
    "mace": Network("MACE", "mace", mace),
    "nvidia": Network("NVIDIA's", "nvidia", nvidia),
    # Its checkpoints refuse torch.autograd.grad, which forces are.
    "nvidia-low-memory": Network(
        "NVIDIA's, --low_memory",
        "nvidia",
        functools.partial(nvidia, low_memory=True),
        ("energy",),
    ),
}


def training_step(network: torch.nn.Module, predict: Predict, batch: Batch) -> None:
    """Make the gradient of the loss, in the network's parameters."""
    energies, forces = predict()
    loss = (energies.double() - batch.energies).square().mean()
    if forces is not None:
        loss = loss + (forces.double() - batch.forces).square().sum(-1).mean()
    network.zero_grad()
    loss.backward()
