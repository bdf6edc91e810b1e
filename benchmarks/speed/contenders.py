"""What is compared: how each makes a step of dynamics, as its own users would.

The networks of others have random weights, which change nothing in what a step costs;
their shapes are those of published models.  Packages are imported where they are used,
since each contender has an environment of its own.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import torch
from openmm import app, unit
from sizes import VACUUM

from openmm_se3.benchmark.timing import Stepper, Steps
from openmm_se3.units import EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM, EV_TO_KJ_PER_MOL

DFT_STEP = 0.005  # A, root mean square: atoms of water at 300 K in 0.5 fs

# A step of some water, and what it is: "network", "platform" and the like.
Made = tuple[Steps, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Job:
    """What one process measures.

    Attributes:
        contender: One of ``CONTENDERS``.
        atoms: Size of the water.
        threads: Threads.
        seconds: About how long a round lasts, s.
        model: Our model, by name or path.
        source: Folder of NVIDIA's files.
    """

    contender: str
    atoms: int
    threads: int
    seconds: float
    model: str
    source: str


def ours(engine: str) -> Callable[[app.Topology, np.ndarray, Job], Made]:
    """Return what makes a step of our model with an engine."""

    def make(topology: app.Topology, positions: np.ndarray, job: Job) -> Made:
        from openmm_se3 import SE3Potential

        potential = SE3Potential(job.model, engine=engine)
        config = potential.config
        shape = (
            f"model {potential.metadata['name']}, {config.layers} layers, "
            f"{config.channels} channels, {config.heads} heads, "
            f"degrees 0 to {config.lmax}, {config.cutoff:g} A; {potential.backend}"
        )
        return _through_openmm(potential.createSystem(topology), positions, shape)

    return make


def full(topology: app.Topology, positions: np.ndarray, job: Job) -> Made:
    """Return a step of our network with the paper's kernels, in the shape of NVIDIA's.

    Its weights are random.
    """
    from openmm_se3 import SE3Potential
    from openmm_se3.config import ModelConfig, to_dict
    from openmm_se3.export.write import model_of_checkpoint
    from openmm_se3.model.transformer import SE3Transformer
    from openmm_se3.modelfile import contents

    config = ModelConfig(
        elements=("H", "O"),
        cutoff=5.0,
        layers=3,
        channels=32,
        key_channels=16,
        heads=8,
        lmax=2,
        kernel="full",
        mirror=False,
    )
    network = SE3Transformer(config).float()
    checkpoint = {
        "model": to_dict(config),
        "average": network.state_dict(),
        "reference": {
            "symbols": [a.element.symbol for a in topology.atoms()][:3],
            "positions": positions[:3].tolist(),
        },
        "versions": {"torch": torch.__version__},
        "level_of_theory": {"method": "none", "basis": "none"},
        "self_energies": dict.fromkeys(config.elements, 0.0),
        "data": {"sha256": "0" * 64, "files": [], "surroundings": "free"},
        "choices": {"split": {}},
        "training": {},
        "step": 0,
    }
    model = model_of_checkpoint(checkpoint, "full", "MIT")
    with tempfile.TemporaryDirectory() as folder:
        for name, content in contents(model).items():
            (Path(folder) / name).write_bytes(content)
        potential = SE3Potential(folder)
        system = potential.createSystem(topology)
    shape = (
        f"{config.layers} layers, {config.channels} channels, {config.heads} heads, "
        f"degrees 0 to {config.lmax}, {config.cutoff:g} A, all harmonics, both "
        f"parities; TorchScript, {potential.backend}"
    )
    return _through_openmm(system, positions, shape)


def mace(topology: app.Topology, positions: np.ndarray, job: Job) -> Made:
    """MACE of the shape of MACE-OFF23-small."""
    from e3nn import o3
    from mace import modules
    from openmmml import MLPotential

    elements = [1, 6, 7, 8, 9, 15, 16, 17, 35, 53]
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    network = modules.ScaleShiftMACE(
        r_max=4.5,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=2,
        num_elements=len(elements),
        hidden_irreps=o3.Irreps("96x0e"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(elements)),
        avg_num_neighbors=20.0,
        atomic_numbers=elements,
        correlation=3,
        gate=torch.nn.functional.silu,
        radial_MLP=[64, 64, 64],
        radial_type="bessel",
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    ).float()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mace.model"
        torch.save(network, path)
        potential = MLPotential("mace", modelPath=str(path))
        system = potential.createSystem(topology, precision="single")
    shape = (
        "2 layers, 96 channels, L = 0, correlation 3, 4.5 A, "
        f"float32; mace-torch {version('mace-torch')}, openmm-ml {version('openmmml')}"
    )
    return _through_openmm(system, positions, shape)


def tensornet(topology: app.Topology, positions: np.ndarray, job: Job) -> Made:
    """TensorNet of the shape of AceFF-1."""
    from openmmml import MLPotential
    from torchmdnet.models.model import create_model

    settings: dict[str, Any] = {
        "model": "tensornet",
        "embedding_dimension": 128,
        "num_layers": 2,
        "num_rbf": 32,
        "rbf_type": "expnorm",
        "trainable_rbf": False,
        "activation": "silu",
        "equivariance_invariance_group": "O(3)",
        "output_model": "Scalar",
        "reduce_op": "add",
        "cutoff_lower": 0.0,
        "cutoff_upper": 5.0,
        "max_num_neighbors": 64,
        "max_z": 128,
        "derivative": True,
        "precision": 32,
        "prior_model": None,
        "atom_filter": -1,
        "remove_ref_energy": False,
    }
    network = create_model(dict(settings))
    weights = {f"model.{key}": value for key, value in network.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tensornet.ckpt"
        torch.save({"hyper_parameters": settings, "state_dict": weights}, path)
        potential = MLPotential("torchmdnet", modelPath=str(path))
        system = potential.createSystem(topology)
    shape = (
        "2 layers, 128 channels, 5 A, float32, torch.compile; torchmd-net "
        f"{version('torchmd-net')}, openmm-ml {version('openmmml')}"
    )
    return _through_openmm(system, positions, shape)


class NvidiaForce:
    """What a PythonForce calls: NVIDIA's network on a graph of our neighbour list.

    Args:
        network: A :class:`nvidia_network.ForceField` for hydrogen and oxygen.
        numbers: Atomic numbers [n_atoms].
        cutoff: Longest edge, A.
        periodic: Whether there is a box.
    """

    def __init__(
        self, network: Any, numbers: np.ndarray, cutoff: float, periodic: bool
    ) -> None:
        self._network = network
        self._numbers = numbers
        self._cutoff = cutoff
        self._periodic = periodic

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        """Return energy, kJ/mol, and forces [n_atoms, 3], kJ/mol/nm."""
        from openmm_se3.reference.frames import Frame
        from openmm_se3.training.data import frame_graph

        box = None
        if self._periodic:
            vectors = state.getPeriodicBoxVectors(asNumpy=True)
            box = np.array(vectors.value_in_unit(unit.angstrom))
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        frame = Frame(self._numbers, positions, float("nan"), None, box=box)
        graph = frame_graph(frame, {1: 0, 8: 1}, self._cutoff)
        energies, forces = self._network.energy_and_forces(graph)
        return (
            float(energies.detach()) * EV_TO_KJ_PER_MOL,
            forces.double().numpy() * EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM,
        )


def nvidia(topology: app.Topology, positions: np.ndarray, job: Job) -> Made:
    """NVIDIA's network, which comes without neighbours, forces and OpenMM."""
    from nvidia_network import ForceField

    cutoff = 5.0
    network = ForceField(Path(job.source), n_species=2).requires_grad_(False)
    numbers = np.array([atom.element.atomic_number for atom in topology.atoms()])
    vectors = topology.getPeriodicBoxVectors()
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    if vectors is not None:
        system.setDefaultPeriodicBoxVectors(*vectors)
    call = NvidiaForce(network, numbers, cutoff, vectors is not None)
    force = openmm.PythonForce(call)
    force.setUsesPeriodicBoundaryConditions(vectors is not None)
    system.addForce(force)
    shape = (
        f"3 layers, 32 channels, 8 heads, degrees 0 to 2, "
        f"{cutoff:g} A, float32; its files in a PythonForce, dgl {version('dgl')}"
    )
    return _through_openmm(system, positions, shape)


def dft(topology: app.Topology, positions: np.ndarray, job: Job) -> Made:
    """DFT as dynamics call it, without OpenMM's share of a step.

    PySCF's own scanner with its defaults: each calculation starts from the density of
    the one before, for atoms that have moved as far as in a step of dynamics.  A
    process that is warm has made one.
    """
    from pyscf.dft import RKS

    from openmm_se3.reference.dft import build_molecule
    from openmm_se3.reference.level import LevelOfTheory

    level = LevelOfTheory()
    numbers = np.array([atom.element.atomic_number for atom in topology.atoms()])
    molecule = build_molecule(numbers, positions, level)
    scf = RKS(molecule)
    scf.xc = level.method
    scanner = scf.nuc_grad_method().as_scanner()
    rng = np.random.default_rng(0)

    def step(steps: int) -> None:
        for _ in range(steps):
            moved = positions + DFT_STEP * rng.standard_normal(positions.shape)
            scanner(molecule.set_geom_(moved, unit="Angstrom", inplace=False))

    shape = (
        f"{level}: energy and gradient, grid {scf.grids.level}, from the density of "
        f"the step before; pyscf {version('pyscf')}"
    )
    return step, {"network": shape, "platform": ""}


def _through_openmm(
    system: openmm.System, positions: np.ndarray, network: str
) -> tuple[Steps, dict[str, Any]]:
    # A few atoms give the thread pool of the CPU platform nothing to do.
    platform = "Reference" if len(positions) <= VACUUM[-1] else "CPU"
    stepper = Stepper(system, positions, platform)
    return stepper.step, {"network": network, "platform": platform}


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to make a step.

    Attributes:
        label: Its name in tables.
        environment: Where it runs, a key of ``environments.ENVIRONMENTS``.
        make: Returns its step for a topology and positions [n_atoms, 3], A.
        largest: It is measured up to so many atoms.
    """

    label: str
    environment: str
    make: Callable[[app.Topology, np.ndarray, Job], Made]
    largest: int = 1_000_000


OURS = "compiled"  # what the others are compared with
CONTENDERS = {
    OURS: Contender("ours, compiled", "ours", ours("compiled")),
    "torchscript": Contender("ours, TorchScript", "ours", ours("torchscript")),
    "full": Contender("ours, full kernels", "ours", full),
    "mace": Contender("MACE-OFF23-small", "mace", mace),
    "tensornet": Contender("TensorNet 128x2", "tensornet", tensornet),
    "nvidia": Contender("NVIDIA SE(3)-Transformer", "nvidia", nvidia),
    "dft": Contender("DFT", "ours", dft, largest=24),
}
