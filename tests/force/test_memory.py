"""The memory of energy and forces: estimate, what there is, refusal."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from openmm import app
from random_model import random_network, topology_of

from openmm_se3 import SE3Potential
from openmm_se3 import available_memory as available
from openmm_se3.available_memory import available_memory
from openmm_se3.force import memory
from openmm_se3.force.memory import (
    NotEnoughMemoryError,
    count_edges,
    expected_edges,
    needed_memory,
)
from openmm_se3.model_file import load_model

EDGE = 12.0  # A, of a box
# Peak of the resident memory that two evaluations add, GB, after one has come to rest.
MEASUREMENT = """
import json, sys
import numpy as np
import openmm
from openmm_se3 import SE3Potential
from openmm_se3.simulation import water_topology

implementation, n, edge = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
side = round(n ** (1 / 3))
molecule = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])
corners = edge / side * np.array(list(np.ndindex(side, side, side)))
positions = np.concatenate([corner + molecule for corner in corners])
topology = water_topology(n)
topology.setPeriodicBoxVectors(0.1 * edge * np.eye(3))
potential = SE3Potential("water", implementation=implementation)
system = potential.createSystem(topology)
platform = openmm.Platform.getPlatformByName("Reference")
context = openmm.Context(system, openmm.VerletIntegrator(1e-6), platform)
context.setPositions(0.1 * positions)

def status(field):
    rows = open("/proc/self/status").read().splitlines()
    return 1024e-9 * int(next(row.split()[1] for row in rows if row.startswith(field)))

open("/proc/self/clear_refs", "w").write("5")  # the peak starts here
before = status("VmRSS")
context.getState(energy=True, forces=True)
context.getIntegrator().step(1)
needed, available = potential.estimate_memory(positions, edge * np.eye(3))
print(json.dumps([status("VmHWM") - before, needed, available]))
"""


def waters_in_a_box(n: int, edge: float) -> app.Topology:
    return topology_of(["O", "H", "H"] * n, edge * np.eye(3))


# ---------------------------------------------------------------------- estimate


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak cannot be reset here"
)
@pytest.mark.parametrize(
    ("implementation", "n_molecules", "edge"),
    [
        ("torchscript", 27, 9.3),
        ("torchscript", 64, 12.4),  # in chunks
        ("compiled", 729, 28),
    ],
)
def test_within_a_factor_of_two_of_what_is_measured(
    implementation: str, n_molecules: int, edge: float
) -> None:
    arguments = [implementation, str(n_molecules), str(edge)]
    done = subprocess.run(
        [sys.executable, "-c", MEASUREMENT, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    measured, needed, available = json.loads(done.stdout)
    assert 0.03 < measured < available
    assert needed / 2.0 < measured < 2.0 * needed


def test_it_grows_with_what_it_depends_on() -> None:
    network = load_model("water").network(torch.float64)

    def need(
        implementation: str, atoms: int, edges: int, precision: str = "single"
    ) -> float:
        return needed_memory(network, implementation, precision, atoms, edges)

    for implementation in ("compiled", "torchscript"):
        assert need(implementation, 100, 4000) < need(implementation, 100, 8000)
        assert need(implementation, 200, 8000) == pytest.approx(
            2 * need(implementation, 100, 4000)
        )
        ratio = need(implementation, 100, 4000, "double") / need(
            implementation, 100, 4000
        )
        assert 1.5 < ratio <= 2.0
    assert need("compiled", 100, 4000) < need("compiled", 200, 4000)
    # Of water as dense as the liquid, as benchmarks/size.py measures it.
    assert need("compiled", 100, 14_400) < 0.02 * need("torchscript", 100, 14_400)
    # TorchScript takes edges in chunks where there are many.
    most = network.edges_at_a_time
    assert need("torchscript", 200, most + 1) < 0.5 * need("torchscript", 200, most)
    assert 1.0 < need("torchscript", 100_000, 14_400_000) < 100.0


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({}, {"layers": 4}),
        ({}, {"lmax": 3}),
        ({}, {"channels": 8}),
        # With few channels mixing them before and after takes more than full kernels.
        ({"channels": 16}, {"channels": 16, "kernel": "full"}),
    ],
)
def test_larger_networks_need_more(
    less: dict[str, int], more: dict[str, int | str]
) -> None:
    small, large = random_network(**less), random_network(**more)
    needs = [
        needed_memory(network, "torchscript", "single", 10, 90)
        for network in (small, large)
    ]
    assert 0.0 < needs[0] < needs[1]


# ------------------------------------------------------------------------- edges


def test_edges_are_counted() -> None:
    rng = np.random.default_rng(0)
    positions = rng.uniform(0.0, EDGE, size=(150, 3))
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    assert count_edges(positions, None, 4.0) == (distances < 4.0).sum() - 150
    box = EDGE * np.eye(3)
    counted = count_edges(positions, box, 4.0)
    assert counted > count_edges(positions, None, 4.0)
    # Atoms at random are spread evenly, up to the square root of their number.
    assert expected_edges(150, EDGE**3, 4.0) == pytest.approx(counted, rel=0.1)
    for impossible in (0.0, math.nan):
        assert expected_edges(150, impossible, 4.0) == 0


# --------------------------------------------------------------- what there is left


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the place of control groups on a machine with 16 GB, 8 of them available."""
    (tmp_path / "meminfo").write_text(
        "MemTotal: 16000000 kB\nMemFree: 100 kB\nMemAvailable:    8000000 kB\n"
    )
    (tmp_path / "own").write_text("")
    monkeypatch.setattr(available, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(available, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(available, "CGROUPS", tmp_path / "groups")
    return tmp_path


def group(folder: Path, files: tuple[str, str, str], limit: str) -> None:
    """Write a control group that uses 3 GB, one of them for files."""
    folder.mkdir(parents=True)
    (folder / files[0]).write_text(f"{limit}\n")
    (folder / files[1]).write_text("3000000000\n")
    (folder / "memory.stat").write_text(f"anon 1\n{files[2]} 1000000000\n")


def test_the_system_says_what_is_available(machine: Path) -> None:
    assert available_memory() == pytest.approx(8.192)
    (machine / "own").unlink()
    assert available_memory() == pytest.approx(8.192)
    (machine / "meminfo").unlink()
    assert 0.0 < available_memory()


@pytest.mark.parametrize("where", ["user/job", "user", ""])
@pytest.mark.parametrize(
    ("row", "below", "files", "unlimited"),
    [
        (
            "0::/user/job",
            "",
            ("memory.max", "memory.current", "inactive_file"),
            "max",
        ),
        (
            "4:cpu,memory:/user/job",
            "memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            "9223372036854771712",
        ),
    ],
)
def test_a_container_may_have_less(
    machine: Path,
    row: str,
    below: str,
    files: tuple[str, str, str],
    unlimited: str,
    where: str,
) -> None:
    (machine / "own").write_text(f"9:name=systemd:/x\n{row}\n")
    folder = machine / "groups" / below / where
    group(folder, files, "5000000000")
    assert available_memory() == pytest.approx(5.0 - 3.0 + 1.0)
    (folder / files[0]).write_text(f"{unlimited}\n")
    assert available_memory() == pytest.approx(8.192)


# ---------------------------------------------------------------------- refusal


def test_too_many_atoms_are_refused_with_both_numbers_and_the_fix(
    monkeypatch: pytest.MonkeyPatch, smallest_model: Path
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 0.004)
    potential = SE3Potential(smallest_model)
    topology = waters_in_a_box(1000, 31.0)
    with pytest.raises(NotEnoughMemoryError) as caught:
        potential.createSystem(topology)
    text = str(caught.value)
    assert "3000 atoms" in text and "0.0 GB are available" in text
    assert "implementation='compiled', which needs" in text
    assert "fewer atoms" in text and "smaller cutoff" in text
    with pytest.raises(NotEnoughMemoryError):
        potential.estimate_memory(np.random.default_rng(0).uniform(0, 31, (3000, 3)))
    few = waters_in_a_box(2, 31.0)
    assert potential.createSystem(few).getNumParticles() == 6
    topology.setPeriodicBoxVectors(None)  # depends on positions
    assert potential.createSystem(topology).getNumParticles() == 3000


def test_a_box_full_of_edges_is_refused_before_they_are_counted(
    monkeypatch: pytest.MonkeyPatch, smallest_model: Path
) -> None:
    def count(*_: object) -> int:
        raise AssertionError("they were counted")

    monkeypatch.setattr("openmm_se3.force.evaluator.count_edges", count)
    positions = np.random.default_rng(0).uniform(0.0, 1.0, (10_000, 3))
    with pytest.raises(NotEnoughMemoryError):
        SE3Potential(smallest_model).estimate_memory(positions, np.eye(3))


def test_nothing_is_refused_where_the_memory_is_unknown(
    monkeypatch: pytest.MonkeyPatch, smallest_model: Path
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: math.inf)
    needed, available = SE3Potential(smallest_model).estimate_memory(np.zeros((2, 3)))
    assert 0.0 < needed < available == math.inf
