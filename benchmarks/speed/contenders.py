"""What is compared: how each makes a step of dynamics, as its own users would.

Ours and DFT are here, the networks of others in peers.py.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from job import Job, Made, through_openmm
from openmm import app
from peers import aimnet2, ani, mace, mace_compiled, nvidia, symmetrix, tensornet

from openmm_se3.benchmark.timing import FIRST_STEPS

DFT_STEP = 0.005  # A, root mean square: atoms of water at 300 K in 0.5 fs


def ours(implementation: str) -> Callable[[app.Topology, np.ndarray, Job], Made]:
    """Return what makes a step of our model with an implementation."""

    def make(topology: app.Topology, positions: np.ndarray, job: Job) -> Made:
        from openmm_se3 import SE3Potential

        potential = SE3Potential(job.model, implementation=implementation)
        config = potential.config
        shape = (
            f"model {potential.metadata['name']}, {config.layers} layers, "
            f"{config.channels} channels, {config.heads} heads, "
            f"degrees 0 to {config.lmax}, {config.cutoff:g} A; {potential.backend}"
        )
        return through_openmm(
            potential.createSystem(topology), positions, shape, job.platform
        )

    return make


def full(topology: app.Topology, positions: np.ndarray, job: Job) -> Made:
    """Return a step of our network with the paper's kernels, in the shape of NVIDIA's.

    Its weights are random.
    """
    from openmm_se3 import SE3Potential
    from openmm_se3.config import ModelConfig, to_dict
    from openmm_se3.export import model_of_checkpoint
    from openmm_se3.model_file import contents
    from openmm_se3.nn.transformer import SE3Transformer

    config = ModelConfig(
        elements=("H", "O"),
        cutoff=5.0,
        layers=3,
        channels=32,
        key_channels=16,
        heads=8,
        lmax=2,
        kernel="full",
        symmetry="SO(3)",
        self_interaction="attentive",
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
    return through_openmm(system, positions, shape, job.platform)


def dft(topology: app.Topology, positions: np.ndarray, job: Job) -> Made:
    """DFT as one would use it for dynamics, without OpenMM's share of a step.

    PySCF's gradient scanner with density fitting, as the labels have it, and the grid
    of the labels: each calculation starts from the density of the one before, for atoms
    that have moved as far as in a step of dynamics.  The response of the grid and the
    tight threshold of the labels, which dynamics do not need, are left out.
    """
    from pyscf.dft import RKS

    from openmm_se3.data.labeling.dft import build_molecule
    from openmm_se3.data.level_of_theory import LevelOfTheory

    level = LevelOfTheory()
    numbers = np.array([atom.element.atomic_number for atom in topology.atoms()])
    molecule = build_molecule(numbers, positions, level)
    scf = RKS(molecule).density_fit()
    scf.xc = level.method
    scf.grids.level = level.grid_level
    scanner = scf.nuc_grad_method().as_scanner()
    rng = np.random.default_rng(0)

    def step(steps: int) -> None:
        for _ in range(steps):
            moved = positions + DFT_STEP * rng.standard_normal(positions.shape)
            scanner(molecule.set_geom_(moved, unit="Angstrom", inplace=False))

    shape = (
        f"{level}: energy and gradient, density fitting, grid {scf.grids.level}, from "
        f"the density of the step before; pyscf {version('pyscf')}"
    )
    return step, {"network": shape, "platform": ""}


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to make a step.

    Attributes:
        label: Its name in tables.
        environment: Where it runs, what ``environments.python_of`` takes.
        make: Returns its step for a topology and positions [n_atoms, 3], A.
        largest: It is measured up to so many atoms.
        threads: Its threads; None takes those of the size.
        first_steps: Steps to warm up with, one more not counted.
    """

    label: str
    environment: str
    make: Callable[[app.Topology, np.ndarray, Job], Made]
    largest: int = 1_000_000
    threads: int | None = None
    first_steps: int = FIRST_STEPS


OURS = "compiled"  # what the others are compared with
CONTENDERS = {
    OURS: Contender("ours, compiled", "ours", ours("compiled")),
    "torchscript": Contender("ours, TorchScript", "ours", ours("torchscript")),
    "full": Contender("ours, full kernels", "ours", full),
    "mace": Contender("MACE-OFF23-small", "mace", mace),
    "mace-compiled": Contender(
        "MACE-OFF23-small, torch.compile", "mace", mace_compiled
    ),
    "symmetrix": Contender("MACE-OFF23-small, Symmetrix-XL", "symmetrix", symmetrix),
    "ani": Contender("ANI-2x", "ani", ani),
    # It has no boxes; AIMNet2 of PyPI has no weights.
    "aimnet2": Contender("AIMNet2", "ours", aimnet2, largest=48),
    "tensornet": Contender("TensorNet 128x2", "tensornet", tensornet),
    "nvidia": Contender("NVIDIA SE(3)-Transformer", "nvidia", nvidia),
    "dft": Contender("DFT, density fitting", "ours", dft, largest=24, first_steps=1),
    "dft-2": Contender(
        "DFT, density fitting, 2 threads",
        "ours",
        dft,
        largest=24,
        threads=2,
        first_steps=1,
    ),
}
