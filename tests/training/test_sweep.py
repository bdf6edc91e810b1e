"""Sweeps over settings."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from rich.console import Console
from springs import WARNINGS, changed

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of DGL and Lightning while they are imported

    from openmm_se3.training.batches import import_dgl

    import_dgl()

from openmm_se3.cli import main
from openmm_se3.config import from_dict, to_dict
from openmm_se3.training.checkpoint import BEST, load_checkpoint
from openmm_se3.training.config import (
    TrainingConfig,
)
from openmm_se3.training.step import (
    TrainingModule,
)
from openmm_se3.training.sweep import parse_settings, run_variants, variants

pytestmark = WARNINGS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.milestones=[0.5,0.75]", "a list cannot be swept"),
        ("learning_rate=1", "is not of the form"),
        ("training.steps=", "training.steps must be int, got None"),
    ],
)
def test_wrong_settings_of_a_sweep_are_refused(config, text, message):
    with pytest.raises(ValueError, match=message):
        variants(config, parse_settings([text]))


@pytest.mark.parametrize("key", ["milestones", "force_weight"])
def test_wrong_values_within_settings_are_refused(config, key):
    values = {"milestones": [0.5, "late"], "force_weight": False}
    settings = {**to_dict(config.training), key: values[key]}
    with pytest.raises(ValueError, match=f"training.{key} must be float"):
        from_dict(TrainingConfig, settings, "training")


def test_names_of_swept_paths_are_single_folders(config):
    grid = {"training.initial": ["/a/b", "_a_b", "../c"], "training.seed": [1]}
    names = [variant.name for variant in variants(config, grid)]
    assert len(set(names)) == 3
    assert all(Path(name).name == name and ".." != name for name in names)
    plain = variants(config, {"training.seed": [1, 2]})
    assert [variant.name for variant in plain] == ["seed=1", "seed=2"]


def test_sweep_runs_every_combination_and_goes_on(config, tmp_path, monkeypatch):
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(changed(config, steps=8).to_dict()))
    out = tmp_path / "sweep"
    command = ["sweep", str(path), "--out", str(out)]
    grid = ["--set", "training.learning_rate=1e-3,5e-3", "--set", "model.channels=4,8"]
    first = CliRunner().invoke(main, [*command, *grid])
    assert first.exit_code == 0, first.output
    with open(out / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["training.learning_rate"], row["model.channels"]) for row in rows] == [
        ("1e-3", "4"),
        ("1e-3", "8"),
        ("5e-3", "4"),
        ("5e-3", "8"),
    ]
    assert int(rows[0]["parameters"]) < int(rows[1]["parameters"])
    errors = json.loads((out / "learning_rate=5e-3,channels=8/errors.json").read_text())
    expected = errors["validation"]["all"]["force_mae"]
    assert float(rows[3]["validation_force_mae"]) == pytest.approx(expected)
    assert (out / "curves.png").stat().st_size > 0

    def no_training(*args):
        raise AssertionError("a finished run is trained again")

    monkeypatch.setattr(TrainingModule, "training_step", no_training)
    assert CliRunner().invoke(main, [*command, *grid]).exit_code == 0
    path.write_text(yaml.safe_dump(changed(config, steps=9).to_dict()))
    result = CliRunner().invoke(main, [*command, *grid])
    assert result.exit_code != 0
    assert "training.steps: 8 in the checkpoint, 9 now" in result.output
    path.write_text(yaml.safe_dump(changed(config, steps=8).to_dict()))
    wrong = ["--set", "training.lerning_rate=1"]
    result = CliRunner().invoke(main, [*command, *wrong])
    assert result.exit_code == 2 and "did you mean 'learning_rate'" in result.output
    result = CliRunner().invoke(main, [*command, "--set", "data.files=1"])
    assert result.exit_code == 2 and "not of the form" in result.output


def test_sweep_goes_on_after_a_run_that_diverges(config, tmp_path):
    path, out = tmp_path / "train.yaml", tmp_path / "sweep"
    short = changed(config, steps=16, max_skipped=1)
    path.write_text(yaml.safe_dump(short.to_dict()))
    # One was killed before its first checkpoint; one gets worse after its best.
    for rate in ("1e200", "0.5"):
        (out / f"learning_rate={rate}").mkdir(parents=True)
    (out / "learning_rate=0.5" / "config.yaml").write_text("")
    rates = "training.learning_rate=1e200,0.5,5e-3"
    command = ["sweep", str(path), "--out", str(out), "--set"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of skipped steps
        result = CliRunner().invoke(main, [*command, rates])
    assert result.exit_code == 0, result.output
    assert "learning_rate=1e200 diverged" in result.output
    with open(out / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["training.learning_rate"] for row in rows] == ["0.5", "5e-3"]
    bad = variants(short, parse_settings([rates]))[1]
    found = run_variants([bad], out, Console(quiet=True))
    best = load_checkpoint(out / bad.name / BEST)
    assert best["step"] < found[0].history[-1]["step"] == 16
    path.write_text(yaml.safe_dump(changed(config, devices=2).to_dict()))
    result = CliRunner().invoke(main, [*command, "training.seed=1,2"])
    assert result.exit_code == 2
    assert "a sweep trains in one process" in result.output
