"""Threads of training, measured, and steps for a time budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from springs import SHORT, TINY, WARNINGS, analytic_frames, write_springs

from openmm_se3.cli import main
from openmm_se3.data.load import Source
from openmm_se3.training import run as training_run
from openmm_se3.training import speed
from openmm_se3.training.checkpoint import LAST, load_checkpoint
from openmm_se3.training.config import DataConfig, RunConfig
from openmm_se3.training.prepare import read_data
from openmm_se3.training.schedule import learning_rate
from openmm_se3.training.start import make_module
from openmm_se3.training.step import TrainingModule

pytestmark = WARNINGS


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    path = tmp_path_factory.mktemp("data") / "springs.h5"
    write_springs(path, analytic_frames())
    training = dataclasses.replace(SHORT, threads=None)
    return RunConfig(TINY, training, DataConfig((Source(str(path)),)))


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let PyTorch use two threads, and draw no figures."""
    for name in ("plot_history", "plot_parity"):
        monkeypatch.setattr(training_run, name, lambda *args: None)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Clock:
    """A clock that steps move on, by what their number of threads takes."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds = seconds
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def step(self) -> None:
        self.now += self.seconds[torch.get_num_threads()]


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({1: 0.055, 2: 0.275, 4: 0.3}, 1),  # a busy machine
        ({1: 0.40, 2: 0.21, 4: 0.11}, 4),
        ({1: 0.40, 2: 0.21, 4: 0.20}, 2),  # no faster, and takes more cores
        ({1: 30.0, 2: 20.0, 4: 10.0}, 4),
    ],
)
def test_the_fewest_threads_that_are_fast_are_chosen(
    seconds: dict[int, float], chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(seconds)
    monkeypatch.setattr(speed, "time", clock)
    assert speed.thread_counts(4) == [1, 2, 4]
    assert speed.thread_counts(6) == [1, 2, 4, 6]
    assert speed.thread_counts(1) == [1]
    measured = speed.time_threads(clock.step, list(seconds))
    assert measured == pytest.approx(seconds)
    assert speed.fewest_fast(measured) == chosen
    rounds = round(clock.now / sum(seconds.values()))
    assert rounds == (1 if seconds[1] > 1.0 else speed.ROUNDS)


def test_measuring_changes_nothing_of_a_run(config: RunConfig) -> None:
    def module() -> TrainingModule:
        torch.manual_seed(1)
        return make_module(config, dataset)

    from rich.console import Console

    dataset = read_data(config.data, Console(quiet=True))
    untouched, measured = module(), module()
    random = torch.get_rng_state()
    found = speed.choose_threads(measured, None, budgeted=False)
    assert found is not None and set(found.seconds) == {1, 2}
    assert torch.get_num_threads() == found.threads
    assert torch.equal(torch.get_rng_state(), random)
    for first, second in zip(
        untouched.network.parameters(), measured.network.parameters(), strict=True
    ):
        assert torch.equal(first, second) and second.grad is None
    assert (measured.step, measured.history) == (0, [])
    # Given, or as before: nothing is measured.
    assert speed.choose_threads(measured, 2, budgeted=False) is None
    assert torch.get_num_threads() == 2


def test_a_resumed_run_keeps_its_threads(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {1: 1.0, 2: 3.0}
    monkeypatch.setattr(speed, "time_threads", lambda *_: times)
    assert not training_run.train(config, tmp_path, max_minutes=1e-9).finished
    assert load_checkpoint(tmp_path / LAST)["threads"] == 1
    monkeypatch.setattr(speed, "time_threads", lambda *_: pytest.fail("measured"))
    seen = []
    step = TrainingModule.training_step

    def watched(self: TrainingModule, *batch: object) -> None:
        seen.append(torch.get_num_threads())
        step(self, *batch)

    monkeypatch.setattr(TrainingModule, "training_step", watched)
    torch.set_num_threads(2)
    assert training_run.train(config, tmp_path, resume=True).finished
    assert set(seen) == {1}


def test_a_time_budget_chooses_the_steps_and_anneals_in_them(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        speed, "time_threads", lambda _, counts: dict.fromkeys(counts, 2.0)
    )
    monkeypatch.setattr(speed, "_validation_seconds", lambda _: 8.0)
    monkeypatch.setattr(speed, "LEAST_STEPS", 20)
    long = dataclasses.replace(config.training, steps=100_000, warmup_steps=1000)
    config = dataclasses.replace(config, training=long)
    # 2 s a step and ten validations of 8 s: 20 steps need 120 s.
    with pytest.raises(ValueError, match="20 steps"):
        training_run.train(config, tmp_path, time_budget=1.5)
    limits = {"time_budget": 200.0 / 60.0, "max_minutes": 1e-9}
    outcome = training_run.train(config, tmp_path, overwrite=True, **limits)
    assert not outcome.finished
    kept = load_checkpoint(tmp_path / LAST)["training"]
    assert 20 <= kept["steps"] <= 60
    assert kept["warmup_steps"] == kept["validate_every"] == kept["steps"] // 10
    # The same command without the budget goes on, to the end of the schedule.
    assert training_run.train(config, tmp_path, resume=True).step == kept["steps"]
    history = load_checkpoint(tmp_path / LAST)["history"]
    rates = [row["learning_rate"] for row in history]
    settings = dataclasses.replace(long, **{k: kept[k] for k in training_run.BUDGETED})
    assert rates[-1] == learning_rate(settings, kept["steps"] - 1)
    assert rates[-1] < 0.03 * long.learning_rate and max(np.diff(rates[1:])) < 0.0
    stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert stored["training"]["steps"] == kept["steps"]


def test_the_command_takes_a_time_budget(config: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    words = [
        "train",
        str(path),
        "--out",
        str(tmp_path / "run"),
        "--time-budget",
        "1e-6",
    ]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "100" in result.output and "minutes" in result.output
