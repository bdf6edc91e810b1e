"""NVIDIA's SE(3)-Transformer as a force field, from its own files.

https://github.com/NVIDIA/DeepLearningExamples, DGLPyTorch/DrugDiscovery/SE3Transformer:
made for one property of a molecule, without gradients of the directions.  Added here,
without a change to its files:

* Energy: its readout (linear, ReLU, linear) for each atom and the sum over atoms, where
  it pools over the molecule.
* Forces: -dE/dx, with the basis from its ``get_basis(compute_gradients=True)``.
* Its attention takes the softmax of DGL, whose derivative on a CPU is a compiled
  function that has no derivative itself: the second derivatives, which training on
  forces needs, would lack terms without a word.  It gets ``edge_softmax`` below.
* Its NVTX ranges are switched off where torch was built without CUDA.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PACKAGE = "se3_transformer"


def edge_softmax(graph: Any, logits: Tensor) -> Tensor:
    """Return the softmax of logits [n_edges, heads] over the edges into each node."""
    _, node = graph.edges()
    index = node.unsqueeze(1).expand_as(logits)
    shape = (graph.num_nodes(), logits.shape[1])
    highest = logits.new_full(shape, -torch.inf)
    highest = highest.scatter_reduce(0, index, logits.detach(), "amax")
    weights = torch.exp(logits - highest.index_select(0, node))
    total = weights.new_zeros(shape).index_add(0, node, weights)
    return weights / total.index_select(0, node)


def import_se3_transformer(source: Path) -> Any:
    """Return NVIDIA's module ``se3_transformer.model``.

    Args:
        source: The folder SE3Transformer of its repository.

    Raises:
        FileNotFoundError: The folder does not hold it.
    """
    if not (source / PACKAGE / "nn/transformer.py").is_file():
        raise FileNotFoundError(f"{source} does not hold NVIDIA's {PACKAGE}")
    os.environ.setdefault("DGLBACKEND", "pytorch")
    if not torch.backends.cuda.is_built():
        torch.cuda.nvtx.range = lambda *_: contextlib.nullcontext()
    sys.path.insert(0, str(source))
    try:
        model = importlib.import_module(f"{PACKAGE}.model")
        attention = importlib.import_module(f"{PACKAGE}.model.layers.attention")
    finally:
        sys.path.remove(str(source))
    attention.edge_softmax = edge_softmax
    return model


class ForceField(nn.Module):
    """NVIDIA's network with an energy for each atom.

    Args:
        source: The folder SE3Transformer of its repository.
        n_species: Number of elements.
        layers: Attention layers.
        channels: Channels of every degree.
        degrees: Number of degrees, 0 included.
        heads: Attention heads.
        energy_scale: Atomic energies are outputs times this, eV.
        low_memory: What its script calls ``--low_memory``: kernels are computed again
            in the backward pass, which torch then refuses to differentiate itself.
    """

    def __init__(
        self,
        source: Path,
        n_species: int,
        layers: int = 3,
        channels: int = 32,
        degrees: int = 3,
        heads: int = 8,
        energy_scale: float = 1.0,
        low_memory: bool = False,
    ) -> None:
        super().__init__()
        model = import_se3_transformer(source)
        self.get_basis = importlib.import_module(f"{PACKAGE}.model.basis").get_basis
        self.n_species = n_species
        self.energy_scale = energy_scale
        features = degrees * channels
        # As its train.sh: normalized features, layer norm in the radial networks.
        self.transformer = model.SE3Transformer(
            num_layers=layers,
            fiber_in=model.Fiber({0: n_species}),
            fiber_hidden=model.Fiber.create(degrees, channels),
            fiber_out=model.Fiber({0: features}),
            num_heads=heads,
            channels_div=2,
            return_type=0,
            norm=True,
            use_layer_norm=True,
            low_memory=low_memory,
        )
        self.readout = nn.Sequential(
            nn.Linear(features, features), nn.ReLU(), nn.Linear(features, 1)
        )

    def edge_vectors(self, graph: Any) -> Tensor:
        """Return x_destination - x_source of each edge [n_edges, 3], A, float32."""
        source, destination = graph.edges()
        positions = graph.ndata["positions"]  # float64, as the shifts
        vectors = positions[destination] - positions[source] - graph.edata["shift"]
        return vectors.float()

    def basis(self, vectors: Tensor, gradients: bool = False) -> dict[str, Tensor]:
        """Return NVIDIA's basis kernels of edges by degrees.

        Args:
            vectors: Edge vectors [n_edges, 3], A.
            gradients: Keep what is needed to differentiate them.
        """
        degree = self.transformer.max_degree
        return self.get_basis(vectors, degree, compute_gradients=gradients)

    def molecule_energies(
        self, graph: Any, vectors: Tensor, basis: dict[str, Tensor]
    ) -> Tensor:
        """Return the energy of each molecule [n_molecules], float64, eV.

        Args:
            graph: Batched graph of :func:`openmm_se3.training.batches.frame_graph`.
            vectors: Edge vectors [n_edges, 3], A.
            basis: What :meth:`basis` gives for them.
        """
        graph.edata["rel_pos"] = vectors
        species = nn.functional.one_hot(graph.ndata["species"], self.n_species)
        node_features = {"0": species.to(vectors.dtype).unsqueeze(-1)}
        # The network changes the dictionary that it is given.
        features = self.transformer(graph, node_features, {}, dict(basis)).squeeze(-1)
        atomic = self.readout(features).squeeze(-1).double() * self.energy_scale
        counts = graph.batch_num_nodes()
        molecule = torch.arange(len(counts), device=counts.device)
        molecule = torch.repeat_interleave(molecule, counts)
        return atomic.new_zeros(len(counts)).index_add(0, molecule, atomic)

    def energy_and_forces(
        self, graph: Any, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return molecules' energies [n_molecules], eV, and forces [n_atoms, 3], eV/A.

        Args:
            graph: Batched graph of :func:`openmm_se3.training.batches.frame_graph`.
            create_graph: Keep what is needed to differentiate the forces, for training.
        """
        vectors = self.edge_vectors(graph).requires_grad_()
        with torch.enable_grad():
            energies = self.molecule_energies(
                graph, vectors, self.basis(vectors, gradients=True)
            )
            (slope,) = torch.autograd.grad(
                energies.sum(), vectors, create_graph=create_graph
            )
        source, destination = graph.edges()
        forces = slope.new_zeros(graph.num_nodes(), 3).index_add(0, source, slope)
        return energies, forces.index_add(0, destination, -slope)
