"""The speed benchmark: ratios, goals, limits, and that what is measured is kept."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from ase import Atoms
from click.testing import CliRunner

from openmm_se3.data.level_of_theory import LevelOfTheory
from openmm_se3.force.memory import NotEnoughMemoryError
from openmm_se3.units import NM_TO_ANGSTROM

FOLDER = Path(__file__).parents[2] / "benchmarks/speed"
sys.path[:0] = [str(FOLDER), str(FOLDER.parent), str(FOLDER.parent / "accuracy")]

import comparison  # noqa: E402
import contenders  # noqa: E402
import job  # noqa: E402
import peers  # noqa: E402
import sizes  # noqa: E402
import turns  # noqa: E402
import worker as speed_worker  # noqa: E402
import worker_process  # noqa: E402

# By its path: benchmarks/accuracy has a compare.py too.
SPEC = importlib.util.spec_from_file_location("speed_compare", FOLDER / "compare.py")
assert SPEC is not None and SPEC.loader is not None
compare = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(compare)

# Answers as a worker does: a step takes 2 s, then 4 s, then 6 s ...
SERVE = """
import json, sys
def answer(**values):
    print(json.dumps(values), flush=True)
answer(network="a network", platform="Reference", steps=1)
for number, _ in enumerate(sys.stdin, 1):
    seconds = 2.0 * number
    answer(seconds=seconds, cpu_seconds=seconds, peak_memory_mib=100.0 + number)
"""
LIMITS = worker_process.Limits(seconds=60.0, gigabytes=1.0)


def row(seconds: float, memory: float) -> dict[str, Any]:
    return {
        "network": "a network",
        "platform": "Reference",
        "seconds": seconds,
        "fastest": 0.9 * seconds,
        "slowest": 1.2 * seconds,
        "cpu_seconds": 0.8 * seconds,
        "peak_memory_mib": memory,
    }


def size(threads: int, **rows: dict[str, Any]) -> dict[str, Any]:
    machine = dict.fromkeys(("processor", "cores", "python", "torch", "openmm"), "x")
    settings = {"threads": threads, "rounds": 7, "limits": dataclasses.asdict(LIMITS)}
    return {
        "settings": settings,
        "machine": {**machine, "load_average": 0.5},
        "rows": rows,
    }


@pytest.fixture
def results() -> comparison.Results:
    return {
        3: size(
            1,
            compiled=row(1e-4, 400.0),
            mace=row(5e-3, 600.0),
            tensornet=row(3e-3, 900.0),
            dft=row(0.95, 500.0),
        ),
        24: size(1, compiled=row(1e-3, 401.0), dft=row(26.0, 700.0)),
        5184: size(
            2,
            compiled=row(1.0, 500.0),
            mace=row(5.0, 1100.0),
            tensornet={"over": "over 16 GB at 1536 atoms"},
        ),
    }


def goal(atoms: int, against: str, what: str = "seconds") -> comparison.Goal:
    (found,) = (
        goal
        for goal in comparison.GOALS
        if goal.atoms == atoms and against in goal.against and goal.what == what
    )
    return found


def test_goals_are_measured_against_the_cheapest(results: comparison.Results) -> None:
    reached = comparison.reached
    # TensorNet is the faster of the two: 30 times, not 50.
    assert reached(results, goal(3, "mace")) == (pytest.approx(30.0), [])
    ratio, missing = reached(results, goal(5184, "mace"))
    assert (ratio, missing) == (pytest.approx(5.0), ["tensornet"])
    # (1100 - 600) / (500 - 400) above the peaks with one molecule.
    memory, missing = reached(results, goal(5184, "mace", "memory_mib"))
    assert (memory, missing) == (pytest.approx(5.0), ["tensornet"])
    assert reached(results, goal(24, "dft")) == (pytest.approx(26_000.0), [])
    assert reached(results, goal(192, "nvidia")) == (None, ["nvidia"])


def test_goal_table_names_what_is_reached(results: comparison.Results) -> None:
    lines = comparison.goal_table(results)
    assert lines[2].endswith("| 40 x faster | 30 | no |")
    assert lines[5].endswith("| 4 x faster | 5 | yes (without TensorNet 128x2) |")
    assert lines[6].endswith("| 4 x less memory | 5 | yes (without TensorNet 128x2) |")
    assert lines[-1] == (
        "| 24 | DFT, density fitting | 25,000 x faster | 2.6e+04 | yes |"
    )
    assert sum(line.endswith("| - |  |") for line in lines) == 5


def test_time_table(results: comparison.Results) -> None:
    lines = comparison.time_table(results)
    assert len(lines) == 2 + 4 + 2 + 3
    own = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    # Half a femtosecond each: 86400 s / 0.1 ms * 0.5e-6 ns.
    assert own[4:9] == ["0.1", "0.09", "0.12", "0.08", "432"]
    box = [cell.strip() for cell in lines[-2].split("|")[1:-1]]
    assert box[:3] == ["5,184", "2", "MACE-OFF23-small"]
    assert box[-3:] == ["500", "5", "5"]
    assert "over 16 GB at 1536 atoms" in lines[-1]
    assert len({line.count("|") for line in lines}) == 1
    text = comparison.report(results)
    assert (
        "load average 0.5 to 0.5" in text
        and "- DFT, density fitting: a network" in text
    )


def worker(tmp_path: Path, code: str, limits: worker_process.Limits = LIMITS) -> Any:
    command = [sys.executable, "-S", "-c", code]
    return worker_process.Worker(command, os.environ, tmp_path / "log", limits)


def test_turns_of_workers(tmp_path: Path) -> None:
    over = worker_process.Limits(seconds=0.3, gigabytes=1.0)
    rows, errors = turns.workers_take_turns(
        {
            "mace": lambda: worker(tmp_path, SERVE),
            "nvidia": lambda: worker(tmp_path, "import time; time.sleep(60)", over),
            "dft": lambda: worker(tmp_path, "raise SystemExit('no such package')"),
        },
        rounds=3,
    )
    assert rows["mace"]["rounds"] == [2.0, 4.0, 6.0]
    assert (rows["mace"]["seconds"], rows["mace"]["peak_memory_mib"]) == (4.0, 103.0)
    assert list(rows) == ["mace"]
    assert isinstance(errors["nvidia"], worker_process.OverLimitError)
    assert str(errors["nvidia"]) == "over 0.3 s"
    assert not isinstance(errors["dft"], worker_process.OverLimitError)
    assert "ended with code 1: no such package" in str(errors["dft"])


def test_a_worker_that_takes_too_much_memory(tmp_path: Path) -> None:
    code = "import time; x = bytearray(80_000_000); time.sleep(60)"
    few = worker_process.Limits(seconds=60.0, gigabytes=0.05)
    with pytest.raises(worker_process.OverLimitError, match="over 0.05 GB"):
        worker(tmp_path, code, few).answer()


def test_one_that_finds_too_little_memory_is_over_a_limit(tmp_path: Path) -> None:
    code = 'print(\'{"over": "over the memory there is"}\')'
    with pytest.raises(worker_process.OverLimitError, match="^over the memory there"):
        worker(tmp_path, code).answer()


def test_a_worker_says_that_there_is_too_little_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make(*_: object) -> Any:
        raise NotEnoughMemoryError("29 GB")

    too_large = dataclasses.replace(contenders.CONTENDERS["full"], make=make)
    monkeypatch.setitem(contenders.CONTENDERS, "full", too_large)
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(speed_worker, "answers_on_stdout", lambda: said.append)
    what = job.Job("full", 3, 1, 0.0, "water", "")
    monkeypatch.setattr(sys, "argv", ["worker", json.dumps(dataclasses.asdict(what))])
    speed_worker.main()
    assert said == [{"over": "over the memory there is"}]


def test_one_that_has_taken_long_enough_takes_fewer_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "ENOUGH_SECONDS", 11.0)
    rows, _ = turns.workers_take_turns(
        {"dft": lambda: worker(tmp_path, SERVE)}, rounds=9
    )
    assert rows["dft"]["rounds"] == [2.0, 4.0, 6.0]  # 12 s


def test_what_is_measured_is_kept(
    tmp_path: Path, smallest_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    codes = {"mace": "raise SystemExit('broken')"}

    def start(job: job.Job, *_: object) -> Any:
        started.append(f"{job.contender} {job.atoms} {job.threads}")
        return worker(tmp_path, codes.get(job.contender, SERVE))

    monkeypatch.setattr(compare, "start", start)
    out = tmp_path / "out"
    arguments = ["--model", str(smallest_model), "--out", str(out), "--short"]
    names = ["--contender", "compiled", "--contender", "mace", "--atoms", "3"]
    first = CliRunner().invoke(compare.main, [*arguments, *names])
    assert first.exit_code == 1
    assert "failed: MACE-OFF23-small at 3 atoms" in first.output
    assert list(json.loads((out / "3.json").read_text())["rows"]) == ["compiled"]
    codes.clear()
    second = CliRunner().invoke(compare.main, [*arguments, *names])
    assert second.exit_code == 0, second.output
    assert started == ["compiled 3 1", "mace 3 1"] * 2
    third = CliRunner().invoke(compare.main, [*arguments, *names])
    assert third.output == second.output.partition("\n")[2]
    assert len(started) == 4
    assert "| 3 | 1 | ours, compiled | Reference | 3,000 |" in third.output
    assert (out / "speed.md").read_text() == third.output
    assert (out / "speed.png").stat().st_size > 1000
    other = CliRunner().invoke(compare.main, [*arguments, *names, "--threads", "2"])
    assert other.exit_code == 1
    assert "was measured with other threads" in other.output


def test_one_that_went_over_a_limit_is_not_tried_at_larger_sizes(
    tmp_path: Path, smallest_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, int]] = []

    def start(job: job.Job, *_: object) -> Any:
        started.append((job.contender, job.atoms))
        little = worker_process.Limits(seconds=60.0, gigabytes=1e-6)
        slow = job.contender == "mace" and job.atoms == 6
        code = "import time; time.sleep(60)" if slow else SERVE
        return worker(tmp_path, code, little if slow else LIMITS)

    monkeypatch.setattr(compare, "start", start)
    arguments = ["--model", str(smallest_model), "--out", str(tmp_path / "out")]
    arguments += ["--contender", "compiled", "--contender", "mace", "--rounds", "1"]
    sizes = [word for n in (3, 6, 12) for word in ("--atoms", str(n))]
    done = CliRunner().invoke(compare.main, [*arguments, *sizes])
    assert done.exit_code == 0, done.output
    assert [n for name, n in started if name == "mace"] == [3, 6]
    assert [n for name, n in started if name == "compiled"] == [3, 6, 12]
    assert done.output.count("| over 1e-06 GB at 6 atoms |") == 2


def test_water_is_the_same_in_every_process() -> None:
    topology, positions = sizes.water(192)
    again, same = sizes.water(192)
    assert topology.getNumAtoms() == again.getNumAtoms() == len(positions) == 192
    np.testing.assert_array_equal(positions, same)
    volume = np.prod(np.diag(topology.getPeriodicBoxVectors()._value))
    assert 64 * 18.015 / 602.2 / volume == pytest.approx(1.0, abs=0.01)  # g/cm^3
    for atoms in sizes.VACUUM:
        topology, positions = sizes.water(atoms)
        assert topology.getPeriodicBoxVectors() is None
        assert positions.shape == (atoms, 3)


def test_our_contender_makes_steps(smallest_model: Path) -> None:
    what = job.Job("torchscript", 3, 1, 0.0, str(smallest_model), "")
    step, facts = contenders.CONTENDERS["torchscript"].make(*sizes.water(3), what)
    step(2)
    assert facts["platform"] == "Reference"
    assert "1 layers, 2 channels, 1 heads, degrees 0 to 0, 4 A" in facts["network"]


def test_dft_is_fitted_on_the_grid_of_the_labels() -> None:
    """And moves on: a second step starts from the first one's density."""
    pytest.importorskip("pyscf")
    level = LevelOfTheory()
    assert level.density_fit and level.grid_level == 4
    what = job.Job("dft", 3, 1, 0.0, "water", "")
    step, facts = contenders.CONTENDERS["dft"].make(*sizes.water(3), what)
    assert "density fitting, grid 4" in facts["network"]
    cycles: list[int] = []
    scanner = inspect.getclosurevars(step).nonlocals["scanner"]
    assert hasattr(scanner.base, "with_df") and scanner.base.grids.level == 4
    for _ in range(2):
        step(1)
        cycles.append(scanner.base.cycles)
    assert scanner.base.converged and 0 < cycles[1] < cycles[0]


def test_a_contender_may_have_threads_of_its_own(
    results: comparison.Results,
) -> None:
    results[3]["rows"]["dft-2"] = row(0.6, 500.0)
    (line,) = [s for s in comparison.time_table(results) if "2 threads" in s]
    assert [cell.strip() for cell in line.split("|")[1:3]] == ["3", "2"]
    assert contenders.CONTENDERS["dft-2"].threads == 2


def test_a_calculator_of_ase_in_a_python_force() -> None:
    """Energies in eV and forces in eV/A become kJ/mol and kJ/mol/nm, box included."""
    from ase.calculators.lj import LennardJones

    parameters = {"sigma": 3.0, "epsilon": 0.5, "rc": 6.0, "smooth": True}
    for periodic in (False, True):
        call = peers.CalculatorForce(
            LennardJones(**parameters), np.full(2, 18), periodic
        )
        system = openmm.System()
        for _ in range(2):
            system.addParticle(40.0)
        system.setDefaultPeriodicBoxVectors(*(1.3 * np.eye(3)))
        force = openmm.PythonForce(call)
        force.setUsesPeriodicBoundaryConditions(periodic)
        system.addForce(force)
        context = openmm.Context(
            system,
            openmm.VerletIntegrator(0.001),
            openmm.Platform.getPlatformByName("Reference"),
        )
        # 3.3 A apart, across the face of the box where there is one.
        other = -0.33 + (1.3 if periodic else 0.0)
        context.setPositions(np.array([[0.0, 0.0, 0.0], [other, 0.0, 0.0]]))
        state = context.getState(energy=True, forces=True)
        atoms = Atoms("Ar2", [[0.0, 0.0, 0.0], [3.3, 0.0, 0.0]])
        atoms.calc = LennardJones(**parameters)
        energy = state.getPotentialEnergy()._value
        assert energy == pytest.approx(96.48533 * atoms.get_potential_energy(), 1e-6)
        pushed = state.getForces(asNumpy=True)._value[0, 0]
        assert pushed == pytest.approx(-964.8533 * atoms.get_forces()[0, 0], 1e-5)


def test_units_of_the_network_in_a_python_force() -> None:
    """A spring of 1 eV/A^2 from each atom to the origin."""

    def spring(graph: Any) -> tuple[torch.Tensor, torch.Tensor]:
        positions = graph.ndata["positions"].float()
        return 0.5 * positions.square().sum()[None], -positions

    network = type("", (), {"energy_and_forces": staticmethod(spring)})()
    call: Callable[..., Any] = peers.NvidiaForce(
        network, np.array([8, 1, 1]), 5.0, periodic=False
    )
    system = openmm.System()
    for mass in (16.0, 1.0, 1.0):
        system.addParticle(mass)
    system.addForce(openmm.PythonForce(call))
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(1e-9), platform)
    _, positions = sizes.water(3)
    context.setPositions(positions / NM_TO_ANGSTROM)
    state = context.getState(energy=True, forces=True)
    energy = 96.4853 * 0.5 * (positions**2).sum()  # kJ/mol
    assert state.getPotentialEnergy()._value == pytest.approx(energy, rel=1e-5)
    forces = state.getForces(asNumpy=True)._value
    np.testing.assert_allclose(forces, -964.853 * positions, rtol=1e-4, atol=1e-3)
