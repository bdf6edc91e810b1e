"""Networks of others: how each makes a step of dynamics, as its own users would.

They have random weights, which change nothing in what a step costs; their shapes are
those of published models.  Packages are imported where they are used, since each has an
environment of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import torch
from job import Job, Made, through_openmm
from openmm import app, unit

from openmm_se3.units import EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM, EV_TO_KJ_PER_MOL

MACE_SHAPE = "2 layers, 96 channels, L = 0, correlation 3, 4.5 A, float32"
LARGE_CELL = 100.0  # A, of a calculator that needs a cell where there is no box


def mace_network(folder: str) -> Path:
    """Write a MACE network of the shape of MACE-OFF23-small to a folder."""
    from e3nn import o3
    from mace import modules

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
    path = Path(folder) / "mace.model"
    torch.save(network, path)
    return path


def mace(topology: app.Topology, positions: np.ndarray, job: Job) -> Made:
    """MACE as openmm-ml calls it."""
    from openmmml import MLPotential

    with tempfile.TemporaryDirectory() as folder:
        potential = MLPotential("mace", modelPath=str(mace_network(folder)))
        system = potential.createSystem(topology, precision="single")
    shape = (
        f"{MACE_SHAPE}; mace-torch {version('mace-torch')}, "
        f"openmm-ml {version('openmmml')}"
    )
    return through_openmm(system, positions, shape, job.platform)


def mace_compiled(topology: app.Topology, positions: np.ndarray, job: Job) -> Made:
    """MACE through torch.compile, which its ASE calculator offers."""
    from mace.calculators import MACECalculator

    with tempfile.TemporaryDirectory() as folder:
        calculator = MACECalculator(
            model_paths=str(mace_network(folder)),
            device="cpu",
            default_dtype="float32",
            compile_mode="default",
        )
    shape = (
        f"{MACE_SHAPE}, torch.compile; mace-torch {version('mace-torch')}, its ASE "
        "calculator in a PythonForce"
    )
    return through_openmm(
        ase_system(topology, calculator), positions, shape, job.platform
    )


def symmetrix(topology: app.Topology, positions: np.ndarray, job: Job) -> Made:
    """The same network in C++, compiled for its shape by Symmetrix-XL."""
    from symmetrix import Symmetrix

    with tempfile.TemporaryDirectory() as folder:
        network = mace_network(folder)
        weights = Path(folder) / "mace.json"
        convert = Path(sys.executable).with_name("symmetrix_extract_mace")
        command = [convert, "--model", network, "--output", weights]
        subprocess.run(command, check=True, stdout=sys.stderr)
        calculator = Symmetrix(str(weights), dtype="float32", execution_profile="speed")
    shape = (
        f"{MACE_SHAPE}; symmetrix-xl {version('symmetrix-xl')}, its ASE calculator in "
        "a PythonForce"
    )
    return through_openmm(
        ase_system(topology, calculator), positions, shape, job.platform
    )


class CalculatorForce:
    """What a PythonForce calls: an ASE calculator.

    Args:
        calculator: The calculator.
        numbers: Atomic numbers [n_atoms].
        periodic: Whether there is a box.
    """

    def __init__(self, calculator: Any, numbers: np.ndarray, periodic: bool) -> None:
        from ase import Atoms

        cell = None if periodic else [LARGE_CELL] * 3
        self._periodic = periodic
        self._atoms = Atoms(numbers=numbers, cell=cell, pbc=periodic)
        self._atoms.calc = calculator

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        """Return energy, kJ/mol, and forces [n_atoms, 3], kJ/mol/nm."""
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        if self._periodic:
            vectors = state.getPeriodicBoxVectors(asNumpy=True)
            self._atoms.set_cell(np.array(vectors.value_in_unit(unit.angstrom)))
        self._atoms.set_positions(positions)
        energy = self._atoms.get_potential_energy()
        forces = self._atoms.get_forces()
        return (
            float(energy) * EV_TO_KJ_PER_MOL,
            np.asarray(forces, dtype=float) * EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM,
        )


def ase_system(topology: app.Topology, calculator: Any) -> openmm.System:
    """Return a System whose forces are those of an ASE calculator."""
    numbers = np.array([atom.element.atomic_number for atom in topology.atoms()])
    periodic = topology.getPeriodicBoxVectors() is not None
    return python_system(topology, CalculatorForce(calculator, numbers, periodic))


def python_system(topology: app.Topology, call: Any) -> openmm.System:
    """Return a System whose forces are those of a Python function of the State."""
    vectors = topology.getPeriodicBoxVectors()
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    if vectors is not None:
        system.setDefaultPeriodicBoxVectors(*vectors)
    force = openmm.PythonForce(call)
    force.setUsesPeriodicBoundaryConditions(vectors is not None)
    system.addForce(force)
    return system


def ani(topology: app.Topology, positions: np.ndarray, job: Job) -> Made:
    """ANI-2x, eight networks, as TorchANI's ASE calculator calls it."""
    from torchani.arch import Assembler
    from torchani.utils import SYMBOLS_2X

    periodic = topology.getPeriodicBoxVectors() is not None
    maker = Assembler(periodic_table_index=True)
    maker.set_symbols(SYMBOLS_2X)
    maker.set_global_cutoff_fn("cosine")
    maker.set_aev_computer(radial="ani2x", angular="ani2x")
    maker.set_atomic_networks(ctor="ani2x")
    maker.set_neighborlist("cell_list" if periodic else "all_pairs")
    maker.set_gsaes_as_self_energies("wb97x-631gd")
    network = maker.assemble(8).requires_grad_(False).float()
    shape = (
        "ANI-2x, 8 networks, 5.2 A, float32; torchani "
        f"{version('torchani')}, its ASE calculator in a PythonForce"
    )
    return through_openmm(
        ase_system(topology, network.ase()), positions, shape, job.platform
    )


class Aimnet2Force:
    """What a PythonForce calls: one network of AIMNet2 as TorchScript.

    Args:
        path: The file in the wheel of Auto3D.
        numbers: Atomic numbers [n_atoms].
    """

    def __init__(self, path: Path, numbers: np.ndarray) -> None:
        self._network = torch.jit.load(str(path), map_location="cpu")
        self._numbers = torch.tensor(numbers, dtype=torch.int64)[None]

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        """Return energy, kJ/mol, and forces [n_atoms, 3], kJ/mol/nm."""
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        x = torch.tensor(positions, dtype=torch.float32)[None].requires_grad_(True)
        inputs = {"coord": x, "numbers": self._numbers, "charge": torch.zeros(1)}
        energy = self._network(inputs)["energy"].sum()
        (gradient,) = torch.autograd.grad(energy, x)
        return (
            float(energy.detach()) * EV_TO_KJ_PER_MOL,
            -gradient[0].double().numpy() * EV_PER_ANGSTROM_TO_KJ_PER_MOL_NM,
        )


def aimnet2(topology: app.Topology, positions: np.ndarray, job: Job) -> Made:
    """AIMNet2, one network; openmm-ml's way needs files from a network."""
    from openmm_se3.data.labeling.labelers import aimnet2_file

    numbers = np.array([atom.element.atomic_number for atom in topology.atoms()])
    path = aimnet2_file().with_name("aimnet2_wb97m-d3_0.jpt")
    system = python_system(topology, Aimnet2Force(path, numbers))
    shape = f"AIMNet2, published weights, one network, in a PythonForce; {path.name}"
    return through_openmm(system, positions, shape, job.platform)


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
    return through_openmm(system, positions, shape, job.platform)


class NvidiaForce:
    """What a PythonForce calls: NVIDIA's network on a graph of our neighbor list.

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
        from openmm_se3.data.frames import Frame
        from openmm_se3.training.batches import frame_graph

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
    """NVIDIA's network, which comes without neighbors, forces and OpenMM."""
    from nvidia_network import ForceField

    cutoff = 5.0
    network = ForceField(Path(job.source), n_species=2).requires_grad_(False)
    numbers = np.array([atom.element.atomic_number for atom in topology.atoms()])
    periodic = topology.getPeriodicBoxVectors() is not None
    call = NvidiaForce(network, numbers, cutoff, periodic)
    system = python_system(topology, call)
    shape = (
        f"3 layers, 32 channels, 8 heads, degrees 0 to 2, "
        f"{cutoff:g} A, float32; its files in a PythonForce, dgl {version('dgl')}"
    )
    return through_openmm(system, positions, shape, job.platform)
