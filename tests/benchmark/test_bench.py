"""``openmm-se3 bench``: its arithmetic, and that it runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from openmm import app

from openmm_se3 import cli
from openmm_se3.benchmark import timing
from openmm_se3.benchmark.timing import Round, summary
from openmm_se3.simulation import water_start, water_topology
from openmm_se3.simulation.progress import ns_per_day


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Callable[[int], None]]:
    """Make what takes so many seconds a step on a clock of its own."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(timing.time, "process_time", lambda: 2.0 * now[0])

    def lasting(seconds: float) -> Callable[[int], None]:
        def step(steps: int) -> None:
            now[0] += seconds * steps

        return step

    return lasting


def test_rounds_are_summed_up_by_their_median() -> None:
    found = summary([Round(x, 3.0 * x) for x in (5.0, 1.0, 2.0, 9.0)])
    assert found["seconds"] == pytest.approx(3.5)
    assert (found["fastest"], found["slowest"]) == (1.0, 9.0)
    assert found["cpu_seconds"] == pytest.approx(10.5)
    assert found["rounds"] == [5.0, 1.0, 2.0, 9.0]


def test_nanoseconds_a_day() -> None:
    # 1 ms a step is 86.4 million steps a day, half a femtosecond each.
    assert ns_per_day(1, 0.5, 1e-3) == pytest.approx(43.2)


@pytest.mark.parametrize(
    ("seconds_a_step", "steps"), [(1e-3, 300), (0.02, 15), (0.4, 1), (1e-7, 10_000)]
)
def test_a_round_lasts_about_as_long_as_asked(
    clock: Callable[[float], Callable[[int], None]], seconds_a_step: float, steps: int
) -> None:
    assert timing.warm_up(clock(seconds_a_step), 0.3) == steps


def test_turns(clock: Callable[[float], Callable[[int], None]]) -> None:
    order: list[str] = []

    def named(name: str, seconds: float) -> Callable[[int], None]:
        step = clock(seconds)
        return lambda steps: (order.append(name), step(steps))

    found = timing.interleave([named("a", 0.1), named("b", 0.2)], 3, 0.0)
    assert order[-6:] == ["a", "b"] * 3
    assert [[one.seconds for one in own] for own in found] == [
        pytest.approx([0.1] * 3),
        pytest.approx([0.2] * 3),
    ]
    assert found[1][0].cpu_seconds == pytest.approx(0.4)


def bench(*arguments: object) -> Result:
    short = ["--rounds", "1", "--seconds", "0", "--implementation", "torchscript"]
    command = ["bench", *map(str, arguments), *short]
    return CliRunner().invoke(cli.main, command)


def test_bench_times_every_backend_and_platform(
    smallest_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bench.json"
    arguments = (smallest_model, "-n", 1, "--platform", "reference", "--out", out)
    done = bench(*arguments, "--dt", "2")
    assert done.exit_code == 0, done.output
    assert "1 H2O, 3 atoms, 1 thread" in done.output
    (system,) = json.loads(out.read_text())["systems"]
    rows = {row["backend"]: row for row in system["rows"]}
    assert set(rows) == {"no force", "torchforce", "pythonforce"}
    for row in rows.values():
        assert row["platform"] == "Reference"
        assert 0.0 < row["fastest"] <= row["seconds"] <= row["slowest"]
        assert row["ns_per_day"] == pytest.approx(0.1728 / row["seconds"])
    assert rows["torchforce"]["seconds"] > rows["no force"]["seconds"]
    refused = bench(*arguments)
    assert refused.exit_code == 2
    assert "--overwrite replaces it" in refused.output


def test_bench_of_a_structure_and_what_it_refuses(
    smallest_model: Path, tmp_path: Path
) -> None:
    methane = tmp_path / "methane.pdb"
    atoms = [("C", 0, 0, 0), ("H", 1, 1, 1), ("H", -1, -1, 1), ("H", -1, 1, -1)]
    methane.write_text(
        "".join(
            f"HETATM{i:5d}  {s}{i:<2d} CH4 A   1    "
            f"{0.63 * x:8.3f}{0.63 * y:8.3f}{0.63 * z:8.3f}  1.00  0.00           {s}\n"
            for i, (s, x, y, z) in enumerate([*atoms, ("H", 1, -1, -1)], 1)
        )
    )
    done = bench(smallest_model, "--structure", methane, "--platform", "Reference")
    assert done.exit_code == 2
    assert "does not know; it knows" in " ".join(done.output.split())
    water = tmp_path / "water.pdb"
    app.PDBFile.writeFile(water_topology(2), water_start(2, seed=0), str(water))
    done = bench(smallest_model, "--structure", water, "--platform", "Reference")
    assert done.exit_code == 0, done.output
    assert "water.pdb, 6 atoms, 1 thread" in done.output
    done = bench(smallest_model, "-n", 1, "--platform", "none such")
    assert done.exit_code == 2
    assert "there is no platform 'none such'" in done.output
