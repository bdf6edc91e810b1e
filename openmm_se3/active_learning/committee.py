"""A committee of networks: mean energy and forces, and the deviation of its members."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openmm_se3.compiled.library import compiled_or_none
from openmm_se3.compiled.training import FixedWeights
from openmm_se3.config import ModelConfig, from_dict
from openmm_se3.deviation import forces_deviation
from openmm_se3.elements import numbers_of
from openmm_se3.implementation import asked_implementation
from openmm_se3.neighbors import Edges
from openmm_se3.nn.force_field import ForceField
from openmm_se3.nn.transformer import SE3Transformer
from openmm_se3.torch_state import usual_torch
from openmm_se3.training.checkpoint import load_checkpoint


class Atoms:
    """The atoms of several free molecules one after another, and their pairs.

    Args:
        numbers: Atomic numbers of each molecule, [n_atoms of it] each.

    Attributes:
        numbers: Atomic numbers of all atoms [n_atoms].
        molecule: Molecule of each atom [n_atoms].
        starts: First atom of each molecule [n_molecules].
        count: Number of molecules.
    """

    def __init__(self, numbers: Sequence[np.ndarray]) -> None:
        sizes = np.array([len(z) for z in numbers])
        self.numbers = np.concatenate(numbers)
        self.count = len(numbers)
        self.molecule = np.repeat(np.arange(self.count), sizes)
        self.starts = np.cumsum(sizes) - sizes
        pairs = [
            np.stack(np.triu_indices(size, 1)) + start
            for size, start in zip(sizes, self.starts, strict=True)
        ]
        self.first, self.second = np.concatenate(pairs, axis=1)

    def edges(self, positions: np.ndarray, cutoff: float) -> tuple[np.ndarray, ...]:
        """Return centers and neighbors within the cutoff, the reverse ones behind."""
        vectors = positions[self.second] - positions[self.first]
        near = np.einsum("ij,ij->i", vectors, vectors) < cutoff**2
        i, j = self.first[near], self.second[near]
        return np.concatenate([i, j]), np.concatenate([j, i])


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What the members say.

    Attributes:
        energies: Interaction energies [n_members, n_molecules], eV.
        forces: Forces [n_members, n_atoms, 3], eV/A.
    """

    energies: np.ndarray
    forces: np.ndarray

    @property
    def mean_forces(self) -> np.ndarray:
        """Mean forces [n_atoms, 3], eV/A."""
        return np.asarray(self.forces.mean(axis=0))

    @property
    def atom_deviations(self) -> np.ndarray:
        """Deviation of the force on each atom [n_atoms], eV/A."""
        return forces_deviation(self.forces)

    def deviations(self, atoms: Atoms) -> np.ndarray:
        """Return the largest deviation of each molecule's atoms [n_molecules], eV/A."""
        return np.asarray(np.maximum.reduceat(self.atom_deviations, atoms.starts))


class Committee:
    """Networks of the same shape.

    Args:
        networks: The members, in evaluation mode.
        self_energies: Energies of isolated atoms by atomic number, eV.
    """

    def __init__(
        self, networks: Sequence[SE3Transformer], self_energies: dict[int, float]
    ) -> None:
        self.config = networks[0].config
        self.self_energies = self_energies
        self._species = {
            z: index for index, z in enumerate(numbers_of(self.config.elements))
        }
        self._members = [evaluator(network) for network in networks]

    @classmethod
    def load(cls, checkpoints: Sequence[Path]) -> Committee:
        """Return the committee of some training checkpoints."""
        networks, energies = [], {}
        for path in checkpoints:
            content = load_checkpoint(path)
            network = SE3Transformer(from_dict(ModelConfig, content["model"], "model"))
            network.float().load_state_dict(content["average"])
            networks.append(network.eval())
            symbols = list(content["self_energies"])
            values = content["self_energies"].values()
            energies = dict(zip(numbers_of(symbols), map(float, values), strict=True))
        return cls(networks, energies)

    def isolated_energies(self, atoms: Atoms) -> np.ndarray:
        """Return the energies of the molecules' atoms far apart [n_molecules], eV."""
        energies = np.array([self.self_energies[int(z)] for z in atoms.numbers])
        return np.asarray(np.add.reduceat(energies, atoms.starts))

    @usual_torch()
    def predict(self, atoms: Atoms, positions: np.ndarray) -> Predicted:
        """Return energies and forces of all members.

        Args:
            atoms: The atoms.
            positions: Positions [n_atoms, 3], A.
        """
        centers, neighbors = atoms.edges(positions, self.config.cutoff)
        inputs: dict[str, Any] = {
            "positions": torch.as_tensor(positions, dtype=torch.float64),
            "species": torch.tensor([self._species[int(z)] for z in atoms.numbers]),
            "edges": Edges(
                torch.as_tensor(centers), torch.as_tensor(neighbors), None, "paired"
            ),
            "molecule": torch.as_tensor(atoms.molecule),
            "n_molecules": atoms.count,
        }
        results = [member(**inputs) for member in self._members]
        return Predicted(
            np.stack([energies.double().numpy() for energies, _ in results]),
            np.stack([forces.double().numpy() for _, forces in results]),
        )


def evaluator(network: SE3Transformer) -> Callable[..., Any]:
    """Return what computes a network: compiled where that works, as in training.

    Args:
        network: The network, in float32.
    """
    if asked_implementation() != "torchscript":
        compiled = compiled_or_none(
            lambda: FixedWeights(network), network.config, False, "PyTorch"
        )
        if compiled is not None:
            return compiled.energy_and_forces
    return ForceField(network)
