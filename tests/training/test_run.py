"""A training run, stopped and resumed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from rich.console import Console
from springs import (
    SELF_ENERGIES,
    TINY,
    WARNINGS,
    analytic_frames,
    assert_same_run,
    changed,
    evaluate,
    make_graphs,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of DGL and Lightning while they are imported

    from openmm_se3.training import run as training_run
    from openmm_se3.training.batches import import_dgl

    import_dgl()
from torch_modes import default_device

from openmm_se3.cli import main
from openmm_se3.data.dataset import Dataset
from openmm_se3.data.formats.hdf5 import write_hdf5
from openmm_se3.data.frames import Frames
from openmm_se3.data.level_of_theory import LevelOfTheory
from openmm_se3.data.load import Source
from openmm_se3.export import model_of_checkpoint
from openmm_se3.training.batches import (
    BatchOrder,
)
from openmm_se3.training.checkpoint import BEST, LAST, load_checkpoint, load_last
from openmm_se3.training.config import (
    DataConfig,
)
from openmm_se3.training.distributed import launched_rank
from openmm_se3.training.prepare import read_data
from openmm_se3.training.start import make_module
from openmm_se3.training.step import (
    TrainingModule,
)

pytestmark = WARNINGS


def test_run_leaves_errors_figures_and_a_plain_checkpoint(config, finished):
    for name in training_run.FILES:
        assert (finished / name).stat().st_size > 0, name
    best = load_checkpoint(finished / BEST)
    assert best["model"]["elements"] == ["H", "O"]
    assert best["self_energies"] == {"H": -13.0, "O": -2000.0}
    assert best["level_of_theory"]["method"] == "springs"
    split = np.load(finished / "split.npy")
    assert np.bincount(split).tolist() == [16, 4, 4]
    losses = [row["validation_loss"] for row in best["history"]]
    assert [row["step"] for row in best["history"]] == [8, 16, 24]
    assert losses[-1] < 0.8 * losses[0]
    rows = (finished / "history.csv").read_text().splitlines()
    assert len(rows) == 4 and rows[0].startswith("step,epoch,learning_rate")

    # The weights to export are the ones whose errors are reported.
    network = training_run.SE3Transformer(TINY)
    network.load_state_dict(best["average"])
    network.eval()
    test = [f for f in analytic_frames() if f.split == "test"]
    measured = evaluate(network, make_graphs(test))
    written = json.loads((finished / "errors.json").read_text())["test"]
    assert best["errors"]["test"] == written
    report = (finished / "report.md").read_text()
    table = [line for line in report.splitlines() if line.startswith("| ")]
    assert len({len(line) for line in table[-len(written) :]}) == 1, "not aligned"
    assert "Of the averaged weights of the best validation" in report
    formulas = {"H2O md 300 K", "H4O2 md 300 K"}
    elements = {"element H", "element O"}
    # Sizes are not there: each formula has its own, and one file holds all frames.
    assert set(written) == {"all"} | formulas | elements
    assert "energy_mae" not in written["element H"]
    assert measured["all"]["force_mae"] == pytest.approx(written["all"]["force_mae"])
    assert measured["all"]["frames"] == 4


@pytest.mark.parametrize("stop", ["epochs", "minutes", "ctrl-c", "kill"])
def test_stopped_and_resumed_run_equals_one_without_a_stop(
    config, finished, tmp_path, monkeypatch, no_figures, stop
):
    limits = {}
    real_step = TrainingModule.training_step

    def step(module, *batch):
        real_step(module, *batch)
        if stop == "ctrl-c" and module.step == 11:
            os.kill(os.getpid(), signal.SIGINT)
        if stop == "kill" and module.step == 15:
            raise SystemError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", step)
        if stop == "kill":
            with pytest.raises(SystemError):
                training_run.train(config, tmp_path)
        else:
            limits = {"epochs": {"max_epochs": 2.5}, "minutes": {"max_minutes": 1e-6}}
            outcome = training_run.train(config, tmp_path, **limits.get(stop, {}))
            assert not outcome.finished
            assert outcome.step == {"epochs": 10, "minutes": 1, "ctrl-c": 11}[stop]
            assert (outcome.signal == signal.SIGINT) == (stop == "ctrl-c")
    elsewhere = changed(config, threads=None, checkpoint_minutes=0.0)
    assert training_run.train(elsewhere, tmp_path, resume=True).finished
    assert_same_run(finished, tmp_path)


def test_moving_average_of_the_weights(config):
    """Over the last ten steps at first, with the decay that is set later on.

    Steps that were skipped have not been averaged, and do not count.
    """
    graphs = make_graphs(analytic_frames()[:4])
    network = training_run.SE3Transformer(TINY)
    settings = changed(config, ema_decay=0.25, steps=8).training
    order = BatchOrder(np.ones(4), 2, 0)
    module = TrainingModule(network, settings, order, graphs, graphs)
    module.step = module.skipped = 2
    weights = {name: [p.detach().clone()] for name, p in network.named_parameters()}
    real_update = TrainingModule._update_average

    def update(self):
        for name, parameter in network.named_parameters():
            weights[name].append(parameter.detach().clone())
        real_update(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "_update_average", update)
        training_run.fit(module)
    decays = [1 / 10, 2 / 11, 3 / 12, 0.25, 0.25, 0.25]
    for name, average in module.average.named_parameters():
        start, *steps = weights[name]
        expected = start
        for decay, value in zip(decays, steps, strict=True):
            expected = decay * expected + (1.0 - decay) * value
        torch.testing.assert_close(average, expected, rtol=1e-12, atol=1e-14)


def test_averaged_weights_are_validated_and_exported(config, finished):
    best = load_checkpoint(finished / BEST)
    dataset = read_data(config.data, Console(quiet=True))
    graphs = make_module(config, dataset).validation_graphs
    errors = {}
    for key in ("average", "network"):
        network = training_run.SE3Transformer(TINY)
        network.load_state_dict(best[key])
        errors[key] = evaluate(network.eval(), graphs)["all"]["force_mae"]
    assert errors["average"] != pytest.approx(errors["network"], rel=1e-4)
    found = best["history"][-1]["force_mae"]
    assert found == pytest.approx(errors["average"], rel=1e-9)
    exported = model_of_checkpoint(best, "springs", "MIT").network(torch.float64)
    for name, value in exported.state_dict().items():
        torch.testing.assert_close(value, best["average"][name], rtol=1e-6, atol=1e-7)


def test_modes_of_torch_change_nothing(config, finished, tmp_path, no_figures):
    with (
        default_device("meta"),
        torch.inference_mode(),
        torch.autograd.set_detect_anomaly(True),
    ):
        assert training_run.train(config, tmp_path).finished
    assert_same_run(finished, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_a_signal_says_how_to_go_on(config, tmp_path, monkeypatch, no_figures, number):
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    real_step = TrainingModule.training_step

    def step(module, *batch):
        real_step(module, *batch)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(TrainingModule, "training_step", step)
    out = str(tmp_path / "run")
    result = CliRunner().invoke(main, ["train", str(path), "--out", out])
    assert result.exit_code == 128 + number, result.output
    assert f"train {path} --out {out} --resume" in result.output
    assert load_last(tmp_path / "run")["step"] == 1


def test_resume_of_a_changed_run_shows_the_difference(config, finished, tmp_path):
    with pytest.raises(ValueError, match=r"training.learning_rate: 0.005 .* 0.01 now"):
        training_run.train(changed(config, learning_rate=0.01), finished, resume=True)
    frames = tuple(analytic_frames()[:-1])
    path = tmp_path / "springs.h5"
    write_hdf5(
        path, Dataset(Frames.of(frames), LevelOfTheory(method="springs"), SELF_ENERGIES)
    )
    other = dataclasses.replace(config, data=DataConfig((Source(str(path)),)))
    with pytest.raises(ValueError, match=r"data springs\.h5\.sha256: \w{12} in"):
        training_run.train(other, finished, resume=True)
    groups = tmp_path / "groups.npy"
    path = config.data.files[0].path
    np.save(groups, np.arange(len(read_data(config.data, Console(quiet=True)).frames)))
    for read, message in (
        ({"groups": str(groups)}, r"groups: not given in the checkpoint, \w{64} now"),
        ({"level": "other"}, "level: not given in the checkpoint, other now"),
    ):
        other = dataclasses.replace(config, data=DataConfig((Source(path, **read),)))
        with pytest.raises(ValueError, match=f"data {Path(path).name}: {message}"):
            training_run.train(other, finished, resume=True)


@pytest.mark.parametrize(
    ("environment", "number"),
    [
        ({}, 0),
        ({"RANK": "2", "LOCAL_RANK": "0", "SLURM_PROCID": "0"}, 2),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3"}, 3),
        # A second process, started from an interactive shell of an allocation.
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, 1),
        ({"NODE_RANK": "1"}, 1),
    ],
)
def test_every_launcher_numbers_its_processes(environment, number):
    assert launched_rank(environment) == number


def test_folder_with_a_run_is_not_overwritten(config, finished, no_figures):
    before = (finished / LAST).read_bytes()
    with pytest.raises(FileExistsError, match="--resume"):
        training_run.train(config, finished)
    assert (finished / LAST).read_bytes() == before
    with pytest.raises(FileExistsError, match="holds a model"):
        training_run.train(config, Path(__file__).parents[2] / "models/water")
    again = training_run.train(config, finished, resume=True)
    assert again.finished and again.errors is not None


@pytest.mark.parametrize("launcher", ["torchrun", "devices"])
def test_two_processes_give_the_run_of_one(
    config, finished, tmp_path, no_figures, launcher
):
    # Molecules of two sizes, and batches of five that two processes cannot halve; the
    # last batch of an epoch has one frame, so that one process has none.
    settings = changed(config, devices=2) if launcher == "devices" else config
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(settings.to_dict()))
    scripts = Path(sys.executable).parent
    command = [str(scripts / "openmm-se3"), "train", str(path)]
    if launcher == "torchrun":
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command = [*torchrun, "--nproc-per-node=2", "--no-python", *command]
    out = tmp_path / "run"
    done = subprocess.run(
        [*command, "--out", str(out)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Finished after 24 steps") == 1
    assert_same_run(finished, out)
    errors = [json.loads((f / "errors.json").read_text()) for f in (finished, out)]
    assert errors[1]["test"]["all"] == pytest.approx(errors[0]["test"]["all"])
