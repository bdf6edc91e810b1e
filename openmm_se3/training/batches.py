"""Labeled frames as DGL graphs, and the order in which batches of them are seen.

| name            | shape                 | unit | where               |
|-----------------|-----------------------|------|---------------------|
| species         | [n_atoms] int64       |      | ``graph.ndata``     |
| positions       | [n_atoms, 3] float64  | A    | ``graph.ndata``     |
| forces          | [n_atoms, 3] float64  | eV/A | ``graph.ndata``     |
| shift           | [n_edges, 3] float64  | A    | ``graph.edata``     |
| energy          | [n_frames] float64    | eV   | labels, interaction |
| weight          | [n_frames] float64    |      | labels              |
| frame           | [n_frames] int64      |      | labels, index       |

An edge of a graph runs from the neighbor (source) to the center (destination), the way
a message does.
"""

from __future__ import annotations

import bisect
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from openmm_se3.data.frames import Frame, Frames
from openmm_se3.elements import numbers_of, symbols_of
from openmm_se3.neighbors import Edges, in_pairs, neighbor_pairs
from openmm_se3.training.distributed import share

if TYPE_CHECKING:
    import dgl

Composition = tuple[int, ...]

# Graphs of data sets up to this size are made once and kept, 1 kB an atom or so; larger
# ones are made for each batch from what the file holds.
KEPT_ATOMS = 1_000_000


def import_dgl() -> Any:
    """Return the module ``dgl``, set to PyTorch without a note on the screen."""
    os.environ.setdefault("DGLBACKEND", "pytorch")
    import dgl
    import dgl.dataloading

    return dgl


def lowest_energies(frames: Frames) -> dict[Composition, float]:
    """Return the lowest total energy (eV) of each composition."""
    lowest: dict[Composition, float] = {}
    energy = frames.column("energy")
    for index, _ in frames.by_block():
        known = energy[index][np.isfinite(energy[index])]
        if len(known):
            key = composition(frames.blocks[frames.block[index[0]]].numbers)
            lowest[key] = min(float(known.min()), lowest.get(key, np.inf))
    return lowest


def composition(numbers: np.ndarray) -> Composition:
    """Return atomic numbers in their order, the same for all orders of the atoms."""
    return tuple(sorted(int(number) for number in numbers))


def frame_weights(
    frames: Frames,
    cap: float | None,
    lowest: Mapping[Composition, float] | None = None,
) -> np.ndarray:
    """Return the weight of each frame in the loss [n_frames].

    Labels far above the thermal range keep the model from inventing deep wells there,
    but their large errors must not decide the fit: with dE the energy per atom above
    the lowest frame of the same composition, the weight is 1 / (1 + (dE / cap)^2).
    Frames without an energy have the weight 1.

    Args:
        frames: The frames.
        cap: Energy per atom at which the weight is 1/2, eV; None gives ones.
        lowest: Lowest total energies, eV; by default those of ``frames``.
    """
    weights = np.ones(len(frames))
    if cap is None:
        return weights
    # A composition that the training frames lack is measured from its own lowest.
    lowest = {**lowest_energies(frames), **(lowest or {})}
    energy = frames.column("energy")
    for index, _ in frames.by_block():
        numbers = frames.blocks[frames.block[index[0]]].numbers
        least = lowest.get(composition(numbers), np.nan)
        excess = (energy[index] - least) / len(numbers)
        weights[index] = 1.0 / (1.0 + (np.nan_to_num(excess).clip(min=0.0) / cap) ** 2)
    return weights


class FrameGraphs(torch.utils.data.Dataset[Any]):
    """Labeled frames as DGL graphs with their edges.

    Args:
        frames: The frames.
        elements: Chemical symbols of the model; the index is the species.
        cutoff: Longest edge, A.
        self_energies: Energies of isolated atoms by atomic number, eV; subtracted from
            the total energies.
        weights: Weight of each frame in the loss [n_frames].

    Attributes:
        energies: Energies against isolated atoms [n_frames], eV; NaN if not known.
        n_atoms: Atoms of each frame [n_frames].
        n_edges: Edges of each frame [n_frames]; about so many where graphs are not
            kept.

    Raises:
        ValueError: A frame holds an element that the model or the self-energies lack.
    """

    def __init__(
        self,
        frames: Frames,
        elements: Sequence[str],
        cutoff: float,
        self_energies: Mapping[int, float],
        weights: np.ndarray,
    ) -> None:
        self.species = {z: i for i, z in enumerate(numbers_of(elements))}
        self.cutoff = cutoff
        self.frames = frames
        occurring = [frames.blocks[i] for i in np.unique(frames.block)]
        present = sorted({int(number) for b in occurring for number in b.numbers})
        for known, lacks in (
            (self.species, "model.elements lack"),
            (self_energies, "the self-energies lack"),
        ):
            lacking = symbols_of(z for z in present if z not in known)
            if lacking:
                have = symbols_of(sorted(known))
                raise ValueError(
                    f"the data hold {lacking}, which {lacks}; there: {have}"
                )
        isolated = frames.isolated_energies(self_energies)
        self.energies = torch.tensor(frames.column("energy") - isolated)
        self.weights = torch.as_tensor(weights, dtype=torch.float64)
        self.n_atoms = frames.n_atoms.astype(int)
        self.graphs: list[dgl.DGLGraph] | None = None
        if self.n_atoms.sum() <= KEPT_ATOMS:
            self.graphs = [self.make_graph(i) for i in range(len(frames))]
            self.n_edges = np.array([g.num_edges() for g in self.graphs], dtype=int)
        else:
            self.n_edges = estimated_edges(frames, cutoff)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> tuple[dgl.DGLGraph, dict[str, Tensor]]:
        """Return the graph and the labels of one frame.

        The complement of an index gives the frame without its labels, see
        :func:`~openmm_se3.training.distributed.share`.
        """
        if index < 0:
            graph, labels = self[~index]
            graph = graph.clone()
            graph.ndata["forces"] = torch.full_like(graph.ndata["forces"], torch.nan)
            return graph, {
                **labels,
                "energy": torch.full_like(labels["energy"], torch.nan),
            }
        labels = {
            "energy": self.energies[index],
            "weight": self.weights[index],
            "frame": torch.tensor(index),
        }
        kept = self.graphs
        return (self.make_graph(index) if kept is None else kept[index]), labels

    def make_graph(self, index: int) -> dgl.DGLGraph:
        """Return the graph of one frame."""
        return frame_graph(self.frames[index], self.species, self.cutoff)


def estimated_edges(frames: Frames, cutoff: float) -> np.ndarray:
    """Return about how many edges each frame has [n_frames], without looking for them.

    All pairs of free atoms; in a box what the density of a block's first frame gives.
    """
    estimates = np.zeros(len(frames.blocks), dtype=int)
    for number in np.unique(frames.block):
        block = frames.blocks[number]
        n = len(block.numbers)
        estimates[number] = n * (n - 1)
        if block.box is not None:
            density = n / abs(np.linalg.det(block.box[0]))
            sphere = 4.0 / 3.0 * np.pi * cutoff**3
            estimates[number] = int(n * density * sphere)
    return estimates[frames.block]


def frame_graph(
    frame: Frame, species: Mapping[int, int], cutoff: float
) -> dgl.DGLGraph:
    """Return the graph of one frame; unknown forces are NaN.

    Args:
        frame: The frame.
        species: Index of the species by atomic number.
        cutoff: Longest edge, A.

    Raises:
        ValueError: A value is impossible, such as a position that is not finite.
    """
    dgl = import_dgl()
    if (fault := frame.fault()) is not None:
        raise ValueError(f"{frame.trajectory}, {fault}; take it out of the data")
    positions = torch.tensor(frame.positions, dtype=torch.float64)
    box = None if frame.box is None else torch.tensor(frame.box, dtype=torch.float64)
    edges = neighbor_pairs(positions, cutoff, box)
    graph = dgl.graph((edges.neighbor, edges.center), num_nodes=len(positions))
    graph.ndata["species"] = torch.tensor([species[int(z)] for z in frame.numbers])
    graph.ndata["positions"] = positions
    if frame.forces is None:
        graph.ndata["forces"] = torch.full_like(positions, torch.nan)
    else:
        graph.ndata["forces"] = torch.tensor(frame.forces, dtype=torch.float64)
    graph.edata["shift"] = torch.as_tensor(edges.shifts, dtype=torch.float64)
    return graph


@dataclasses.dataclass(frozen=True)
class GraphTensors:
    """The plain tensors of a batch that the network sees, edges in pairs."""

    positions: Tensor
    species: Tensor
    edges: Edges
    molecule: Tensor
    n_molecules: int

    def to(self, device: torch.device | str) -> GraphTensors:
        """Return them on a device."""

        def moved(value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor) else value

        values = {name: moved(value) for name, value in vars(self).items()}
        return GraphTensors(**{**values, "edges": Edges(*map(moved, self.edges))})


def graph_tensors(graph: dgl.DGLGraph) -> GraphTensors:
    """Take a batched graph apart."""
    neighbor, center = graph.edges()
    edges = in_pairs(Edges(center, neighbor, graph.edata["shift"]))
    counts = graph.batch_num_nodes()
    molecule = torch.repeat_interleave(
        torch.arange(len(counts), device=counts.device),
        counts,
        output_size=graph.num_nodes(),
    )
    return GraphTensors(
        positions=graph.ndata["positions"],
        species=graph.ndata["species"],
        edges=edges,
        molecule=molecule,
        n_molecules=len(counts),
    )


def take_apart(
    batch: tuple[dgl.DGLGraph, dict[str, Tensor]],
) -> tuple[GraphTensors, dict[str, Tensor]]:
    """Return a batch of :func:`loader` without its graph, forces among the labels.

    Graphs stay on the CPU: PyPI's DGL cannot put them anywhere else.
    """
    graph, labels = batch
    return graph_tensors(graph), {**labels, "forces": graph.ndata["forces"]}


def fill_batches(
    frames: Sequence[int] | np.ndarray, sizes: np.ndarray, budget: int
) -> list[np.ndarray]:
    """Return frames, in the order given, in batches within a budget.

    Args:
        frames: Indices of frames [n].
        sizes: Size of each frame [n_frames].
        budget: Largest sum of sizes in a batch; a larger frame gets a batch of its own.
    """
    # A lone atom has no edges, and yet a batch cannot hold any number of them.
    order = np.asarray(frames)
    ends = np.cumsum(sizes[order].clip(min=1))
    batches, first, filled = [], 0, 0
    while first < len(order):
        last = int(np.searchsorted(ends, filled + budget, side="right"))
        last = max(last, first + 1)
        batches.append(order[first:last])
        first, filled = last, ends[last - 1]
    return batches


class BatchOrder:
    """The batch of every step: a function of the seed and the step only.

    Each epoch shuffles all frames and fills batches in that order.

    Args:
        sizes: Size of each frame [n_frames], in the unit of the budget.
        budget: Largest sum of sizes in a batch.
        seed: Seed of the shuffles.
    """

    def __init__(self, sizes: np.ndarray, budget: int, seed: int) -> None:
        self.sizes = sizes
        self.budget = budget
        self.seed = seed
        self._starts = [0]  # first step of each epoch, as far as known

    def epoch(self, index: int) -> list[np.ndarray]:
        """Return the batches of one epoch, frames by index."""
        rng = np.random.default_rng([self.seed, index])
        shuffled = rng.permutation(len(self.sizes))
        return fill_batches(shuffled, self.sizes, self.budget)

    def steps(self, first: int, last: int) -> Iterator[np.ndarray]:
        """Yield the batches of steps ``first`` to ``last`` - 1."""
        while first < last:
            index = self._epoch_of(first)
            start = self._starts[index]
            for batch in self.epoch(index)[first - start : last - start]:
                yield batch
                first += 1

    def epochs_at(self, step: int) -> float:
        """Return how many times the data have been seen after ``step`` steps."""
        index = self._epoch_of(step)
        start, end = self._starts[index], self._starts[index + 1]
        return index + (step - start) / (end - start)

    def _epoch_of(self, step: int) -> int:
        while self._starts[-1] <= step:
            batches = self.epoch(len(self._starts) - 1)
            self._starts.append(self._starts[-1] + len(batches))
        return bisect.bisect_right(self._starts, step) - 1


class Interval:
    """Batches from the present step to the next validation; one pass of the trainer.

    Where several processes train, each has its share of every batch.

    It has no length, because the first one of a resumed run is shorter.

    Args:
        order: The batch of every step.
        step: Gives the present step.
        length: Steps between validations.
        total: Steps of the whole run.
    """

    def __init__(
        self, order: BatchOrder, step: Callable[[], int], length: int, total: int
    ) -> None:
        self.order = order
        self.step = step
        self.length = length
        self.total = total

    def __iter__(self) -> Iterator[np.ndarray]:
        first = self.step()
        last = min((first // self.length + 1) * self.length, self.total)
        return map(share, self.order.steps(first, last))


def loader(graphs: FrameGraphs, batches: Any) -> Any:
    """Return DGL's data loader over batches of frames.

    Args:
        graphs: The data.
        batches: Lists of frames, one a batch.
    """
    return import_dgl().dataloading.GraphDataLoader(graphs, batch_sampler=batches)
