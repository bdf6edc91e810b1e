"""Forces of fixed shapes for CUDA graphs, without a GPU: the same numbers, nothing that
a GPU would have to wait for, and no wrong numbers where the room does not suffice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from evaluator import Evaluator, evaluate
from openmm import app
from random_model import (
    BOX,
    SMALL,
    random_network,
    topology_of,
    water_cluster,
    write_random_weights,
)
from torch import Tensor

from openmm_se3 import SE3Potential
from openmm_se3.neighbors import (
    Capacity,
    Edges,
    fixed_pairs,
    inverse_of_triangle,
    neighbor_pairs,
    plane_distances,
)
from openmm_se3.torchscript import graph_passes as simplify
from openmm_se3.torchscript.modules import specialize

CUTOFF = SMALL["cutoff"]
WIDE = np.diag([9.0, 8.5, 8.1])  # larger than two cutoffs
NARROW = np.array([[3.3, 0.0, 0.0], [1.0, 3.5, 0.0], [-1.2, 0.4, 3.1]])  # than one
CELLS = {"none": None, "wide": WIDE, "two cutoffs": BOX, "one cutoff": NARROW}
TOLERANCE = {"single": 5e-5, "double": 1e-9}  # eV and eV/A
KJ_PER_MOL = 96.48533212331  # in 1 eV


def tensor(values: Any) -> Tensor:
    return torch.tensor(np.array(values), dtype=torch.float64)


def rows_of(positions: Tensor, edges: Edges) -> np.ndarray:
    """Return center, neighbor and x_j - x_i of each edge, sorted [n_edges, 5]."""
    center, neighbor, shifts, _ = edges
    vectors = positions[neighbor] - positions[center] + shifts
    rows = torch.cat([center[:, None], neighbor[:, None], vectors], dim=1).numpy()
    return rows[np.lexsort(rows.round(6).T[::-1])]


# ------------------------------------------------------------------ the neighbor list


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("wrapped", [True, False])
def test_fixed_pairs_are_all_neighbors(cell: np.ndarray | None, wrapped: bool) -> None:
    _, positions = water_cluster(8, seed=3)
    box = None if cell is None else tensor(cell)
    if box is not None and not wrapped:
        generator = torch.Generator().manual_seed(1)
        away = torch.randint(-3, 4, positions.shape, generator=generator)
        positions = positions + away.double() @ box
    expected = rows_of(positions, neighbor_pairs(positions, CUTOFF, box))
    most = int(np.bincount(expected[:, 0].astype(int)).max())

    capacity = Capacity.of(len(positions), CUTOFF, box, most + 3)
    found, needed = fixed_pairs(positions, CUTOFF, box, capacity)
    n_edges = len(positions) * capacity.neighbors
    assert [len(part) for part in found[:3]] == [n_edges] * 3
    assert found.layout == "dense"
    rows = rows_of(positions, found)
    near = np.linalg.norm(rows[:, 2:], axis=1) < CUTOFF
    np.testing.assert_allclose(rows[near], expected, atol=1e-9)
    # What is left goes from an atom to itself, where the envelope has long ended.
    assert (rows[~near, 0] == rows[~near, 1]).all()
    assert np.linalg.norm(rows[~near, 2:], axis=1) == pytest.approx(2.0 * CUTOFF)
    assert needed[0] == most and needed[1] <= 1.0

    exact = Capacity(most, capacity.images)
    found, needed = fixed_pairs(positions, CUTOFF, box, exact)
    rows = rows_of(positions, found)
    near = np.linalg.norm(rows[:, 2:], axis=1) < CUTOFF
    np.testing.assert_allclose(rows[near], expected, atol=1e-9)
    assert needed[0] == most

    few = Capacity(most - 1, capacity.images)
    found, needed = fixed_pairs(positions, CUTOFF, box, few)
    lengths = np.linalg.norm(rows_of(positions, found)[:, 2:], axis=1)
    assert needed[0] == most  # which there is no room for
    assert (lengths < CUTOFF).sum() < len(expected)


def test_there_is_room_for_no_more_than_there_can_be() -> None:
    """An atom has all others as neighbors, and in a box their images and its own."""
    assert Capacity.of(5, CUTOFF, None, 64) == Capacity(4)
    assert Capacity.of(5, CUTOFF, None, 3) == Capacity(3)
    # 2 CUTOFF / 0.9 is 8.9 A: one, two and three images along these axes.
    box = tensor(np.diag([9.0, 5.0, 3.0]))
    assert Capacity.of(5, CUTOFF, box, 1000) == Capacity(5 * 6 - 1, (1, 2, 3))
    assert Capacity.of(5, CUTOFF, box, 20) == Capacity(20, (1, 2, 3))


@pytest.mark.parametrize("cell", [WIDE, BOX, NARROW], ids=["wide", "two", "one"])
def test_a_box_that_shrinks_is_searched_until_it_is_said(cell: np.ndarray) -> None:
    _, positions = water_cluster(8)
    box = tensor(cell)
    capacity = Capacity.of(len(positions), CUTOFF, box, 10)
    shares = [
        float(fixed_pairs(positions, CUTOFF, scale * box, capacity)[1][1])
        for scale in (1.0, 0.91, 0.4)
    ]
    assert shares[0] < shares[1] <= 1.0 < shares[2]


@pytest.mark.parametrize("axis", range(3))
def test_a_box_that_shrinks_along_one_axis_is_noticed(axis: int) -> None:
    _, positions = water_cluster(8)
    box = tensor(BOX)
    capacity = Capacity.of(len(positions), CUTOFF, box, 10)
    flat = box.clone()
    flat[:, axis] *= 0.4
    assert fixed_pairs(positions, CUTOFF, box, capacity)[1][1] <= 1.0
    assert fixed_pairs(positions, CUTOFF, flat, capacity)[1][1] > 1.0


@pytest.mark.parametrize("cell", [WIDE, BOX, NARROW], ids=["wide", "two", "one"])
def test_inverse_and_planes_of_lattice_vectors(cell: np.ndarray) -> None:
    box = tensor(cell)
    torch.testing.assert_close(inverse_of_triangle(box), torch.linalg.inv(box))
    a, b, c = cell
    areas = [np.linalg.norm(np.cross(*pair)) for pair in ((b, c), (c, a), (a, b))]
    distances = plane_distances(inverse_of_triangle(box))
    assert distances.tolist() == pytest.approx(abs(np.linalg.det(cell)) / areas)


# ------------------------------------------------------------------------ the force


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "small"
    return write_random_weights(folder, layers=2)


def boxed(n_molecules: int, box: np.ndarray | None) -> tuple[app.Topology, np.ndarray]:
    symbols = ["O", "H", "H"] * n_molecules
    return topology_of(symbols, box), water_cluster(n_molecules)[1].numpy()


def assert_same(
    model: Path,
    topology: app.Topology,
    positions: np.ndarray,
    precision: str,
    platform: str = "Reference",
    atoms: list[int] | None = None,
    calls: int = 3,
    **options: Any,
) -> None:
    """Compare a force for CUDA graphs with one that finds as many edges as there are,
    at several positions and in boxes of several sizes."""
    results = []
    for extra in ({"cudaGraphs": True, **options}, {"implementation": "torchscript"}):
        potential = SE3Potential(model, precision=precision, **extra)
        system = openmm.System()
        for atom in topology.atoms():
            system.addParticle(atom.element.mass)
        vectors = topology.getPeriodicBoxVectors()
        if vectors is not None:
            system.setDefaultPeriodicBoxVectors(*vectors)
        potential.addForces(system, topology, atoms)
        evaluator = Evaluator(system, platform)
        rng = np.random.default_rng(0)
        own = []
        for call in range(calls):
            if vectors is not None:
                scale = 1.0 + 0.02 * (call % 3 - 1)
                evaluator.context.setPeriodicBoxVectors(*(v * scale for v in vectors))
            own.append(evaluator(positions + rng.normal(0.0, 0.05, positions.shape)))
        results.append(own)
    for (energy, forces), (wanted, wanted_forces) in zip(*results, strict=True):
        limit = TOLERANCE[precision]
        scale = max(1.0, np.abs(wanted_forces).max())
        assert energy == pytest.approx(wanted, abs=limit * len(positions))
        np.testing.assert_allclose(forces, wanted_forces, atol=limit * scale)


@pytest.mark.parametrize(
    ("cell", "precision", "platform"),
    [
        (None, "single", "CPU"),
        (None, "double", "Reference"),
        (WIDE, "double", "CPU"),
        (BOX, "single", "Reference"),
        (BOX, "double", "CPU"),
    ],
)
def test_the_same_energy_and_forces(
    cell: np.ndarray | None, precision: str, platform: str, model: Path
) -> None:
    molecules = 22 if cell is None else 8  # more than 64 atoms take no list else
    topology, positions = boxed(molecules, cell)
    assert_same(model, topology, positions, precision, platform)


def test_the_same_over_many_calls(model: Path) -> None:
    assert_same(model, *boxed(8, BOX), "double", calls=20)


def test_the_same_for_some_atoms_in_any_order(model: Path) -> None:
    assert_same(model, *boxed(8, WIDE), "double", atoms=[9, 1, 0, 2, 11, 10, 20])


def test_the_same_for_a_few_free_atoms(model: Path) -> None:
    assert_same(model, *boxed(2, None), "double")


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel": "full", "nonlinearity": "norm", "channels": 2, "key_channels": 2},
        {"force_mode": "both", "symmetry": "SO(3)"},
        {
            "envelope": "none",
            "attention": "softmax",
            "activation": "relu",
            "readout": "linear",
        },
    ],
    ids=["layers of the thesis", "both forces", "softmax"],
)
def test_the_same_for_other_networks(changes: dict[str, Any], tmp_path: Path) -> None:
    other = write_random_weights(tmp_path / "other", **{"layers": 2, **changes})
    assert_same(other, *boxed(8, BOX), "double")


def test_a_scaled_force(model: Path) -> None:
    topology, positions = boxed(8, BOX)
    potential = SE3Potential(model, precision="double", cudaGraphs=True)
    plain = evaluate(potential.createSystem(topology), positions)
    evaluator = Evaluator(potential.createSystem(topology, scale="part"))
    evaluator.context.setParameter("part", 0.25)
    energy, forces = evaluator(positions)
    assert energy == pytest.approx(0.25 * plain[0], rel=1e-12)
    np.testing.assert_allclose(forces, 0.25 * plain[1], rtol=1e-9, atol=1e-12)


def test_openmm_is_asked_for_a_cuda_graph(smallest_model: Path) -> None:
    topology, _ = boxed(2, None)
    for wanted in (True, False):
        potential = SE3Potential(
            smallest_model, implementation="torchscript", cudaGraphs=wanted
        )
        xml = openmm.XmlSerializer.serialize(potential.makeForce(topology))
        (given,) = re.findall('name="useCUDAGraphs" value="(.*?)"', xml)
        assert given == str(wanted).lower()


# --------------------------------------------------------------- what a GPU can record


def recorded(box: np.ndarray | None, neighbors: int) -> tuple[Any, Tensor, Tensor]:
    """Return the graph for two of three waters, and an example to call it with, nm."""
    species, positions = water_cluster(3)
    cell = None if box is None else tensor(box)
    capacity = Capacity.of(6, CUTOFF, cell, neighbors)
    x = 0.1 * positions
    in_nm = None if cell is None else 0.1 * cell
    module = specialize(
        random_network(layers=2),
        species[:6],
        torch.arange(6),
        9,
        0.0,
        x,
        in_nm,
        capacity,
    )
    (graph,) = module.children()
    return graph, x, torch.zeros(3, 3).double() if in_nm is None else in_nm


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_a_gpu_waits_for_nothing(cell: np.ndarray | None) -> None:
    """On "meta" there are no numbers to wait for, and nothing may stay on the CPU."""
    graph, x, box = recorded(cell, 12)
    code = str(graph.inlined_graph)
    assert "Device" not in code
    for name in ("nonzero", "item", "masked_select", "linalg", "_local_scalar_dense"):
        assert f"aten::{name}" not in code
    energy, forces, needed = graph.to("meta")(x.to("meta"), box.to("meta"))
    assert {r.device.type for r in (energy, forces, needed)} == {"meta"}
    assert (energy.shape, forces.shape, needed.shape) == ((1,), (9, 3), (2,))


def test_large_constants_are_made_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers, in a smaller module, which a GPU can run too."""
    graph, x, box = recorded(WIDE, 12)
    expected = graph(x, box)
    monkeypatch.setattr(simplify, "LARGEST_CONSTANT", 50)
    small, _, _ = recorded(WIDE, 12)
    sizes = [
        sum(value.numel() for value in module.buffers()) for module in (graph, small)
    ]
    assert sizes[1] < 0.8 * sizes[0]
    for found, wanted in zip(small(x, box), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert "Device" not in str(small.inlined_graph)
    energy, _, _ = small.to("meta")(x.to("meta"), box.to("meta"))
    assert energy.device.type == "meta"


def test_a_list_of_changing_length_could_not_be_recorded() -> None:
    """Control for the test above: this is what makes it fail."""
    _, positions = water_cluster(3)
    within = (positions - positions[:, None]).square().sum(-1) < CUTOFF**2
    with pytest.raises((RuntimeError, NotImplementedError), match="meta|nonzero"):
        within.to("meta").nonzero()


@pytest.mark.parametrize("scale", [1.0, 0.4], ids=["neighbors", "box"])
def test_where_the_room_does_not_suffice_there_are_no_numbers(scale: float) -> None:
    """A GPU does not look at what is needed: OpenMM has to see it in the result."""
    neighbors = 3 if scale == 1.0 else 10_000
    graph, x, box = recorded(WIDE, neighbors)
    energy, forces, needed = graph(x, scale * box)
    assert needed[0] > 3 and (needed[1] > 1.0) == (scale < 1.0)
    assert energy.isnan().all()
    assert forces[:6].isnan().all() and (forces[6:] == 0.0).all()
    if scale < 1.0:
        assert graph(x, box)[0].isfinite().all()


def test_a_processor_says_what_does_not_suffice(smallest_model: Path) -> None:
    topology, positions = boxed(8, WIDE)
    edges_of = neighbor_pairs(tensor(positions), CUTOFF, tensor(WIDE))
    most = int(edges_of.center.bincount().max())
    potential = SE3Potential(smallest_model, cudaGraphs=True, neighbors=most)
    evaluator = Evaluator(potential.createSystem(topology))
    energy, _ = evaluator(positions)
    crowded = positions.mean(axis=0) + 0.6 * (positions - positions.mean(axis=0))
    with pytest.raises(openmm.OpenMMException, match=f"there is room for {most}: give"):
        evaluator(crowded)
    assert evaluator(positions)[0] == energy
    roomy = SE3Potential(smallest_model, cudaGraphs=True, neighbors=5000)
    evaluator = Evaluator(roomy.createSystem(topology))
    evaluator.context.setPeriodicBoxVectors(*(0.05 * WIDE))
    with pytest.raises(openmm.OpenMMException, match="box has become so small"):
        evaluator(positions)


# ------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"cudaGraphs": True, "backend": "pythonforce"}, "needs Triton's kernels"),
        (
            {"cudaGraphs": True, "implementation": "compiled"},
            "needs implementation 'torchscript'",
        ),
        ({"cudaGraphs": True, "neighbors": 0}, "neighbors must be at least 1"),
        ({"cudaGraphs": True, "neighbors": 2.5}, "must be at least 1, got 2.5"),
        ({"cudaGraphs": True, "neighbors": "many"}, "must be at least 1, got 'many'"),
        ({"neighbors": 100}, "neighbors is what cudaGraphs=True has room for"),
    ],
)
def test_options_that_do_not_go_together(
    options: dict[str, Any], match: str, model: Path
) -> None:
    with pytest.raises(ValueError, match=match):
        SE3Potential(model, **options)


def test_systems_that_are_not_recorded(smallest_model: Path) -> None:
    potential = SE3Potential(smallest_model, cudaGraphs=True)
    large = topology_of(["O", *["H"] * 1000])
    with pytest.raises(ValueError, match="serves up to 1000 atoms, got 1001"):
        potential.createSystem(large)
    topology, _ = boxed(2, None)
    with pytest.raises(ValueError, match="cudaGraphs needs the box"):
        potential.makeForce(topology, periodic=True)
    few = SE3Potential(smallest_model, cudaGraphs=True, neighbors=1)
    with pytest.raises(ValueError, match="evenly have up to .* is room for 1: give"):
        few.createSystem(boxed(8, WIDE)[0])


def test_the_default_has_room_for_an_even_liquid(smallest_model: Path) -> None:
    """As dense as water and a tenth more, also where a grid of atoms has gaps."""
    for n_molecules, volume in ((8, 240.0), (73, 2190.0), (73, 1990.0), (115, 3450.0)):
        topology, _ = boxed(n_molecules, volume ** (1.0 / 3.0) * np.eye(3))
        potential = SE3Potential(smallest_model, cudaGraphs=True)
        assert potential.createSystem(topology).getNumParticles() == 3 * n_molecules


def test_memory_counts_what_there_is_room_for(model: Path) -> None:
    def needed(n_molecules: int, box: np.ndarray | None, **options: Any) -> float:
        potential = SE3Potential(model, implementation="torchscript", **options)
        return potential.estimate_memory(boxed(n_molecules, box)[1], box)[0]

    graphs: dict[str, Any] = {"cudaGraphs": True, "neighbors": 60}
    assert needed(2, None, **graphs) == needed(2, None)
    assert needed(30, None, **graphs) > 1.2 * needed(30, None)
    assert needed(8, WIDE, **graphs) > 1.2 * needed(8, WIDE)


def test_positions_that_are_no_numbers(smallest_model: Path) -> None:
    topology, positions = boxed(8, WIDE)
    system = SE3Potential(smallest_model, cudaGraphs=True).createSystem(topology)
    evaluator = Evaluator(system)
    energy, _ = evaluator(positions)
    broken = positions.copy()
    broken[3, 1] = np.nan
    with pytest.raises(openmm.OpenMMException, match="NaN"):
        evaluator(broken)
    assert evaluator(positions)[0] == energy
