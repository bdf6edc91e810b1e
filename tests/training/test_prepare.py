"""Data and configurations that a training run refuses."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import yaml
from springs import SELF_ENERGIES, TINY, WARNINGS, analytic_frames, changed

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of DGL and Lightning while they are imported

    from openmm_se3.training import run as training_run
    from openmm_se3.training.batches import import_dgl

    import_dgl()

from openmm_se3.data.dataset import Dataset
from openmm_se3.data.formats.hdf5 import write_hdf5
from openmm_se3.data.frames import Frames
from openmm_se3.data.level_of_theory import LevelOfTheory
from openmm_se3.data.load import Source
from openmm_se3.training.config import (
    DataConfig,
)
from openmm_se3.training.config_file import read_config
from openmm_se3.training.start import make_module

pytestmark = WARNINGS


def test_data_without_forces_are_refused_unless_they_are_meant(config):
    frames = analytic_frames()
    bare = [dataclasses.replace(frame, forces=None) for frame in frames]
    whole, without = (
        Dataset(Frames.of(part), LevelOfTheory(), SELF_ENERGIES)
        for part in (frames, bare)
    )
    make_module(config, whole)
    make_module(changed(config, force_weight=0.0), without)
    with pytest.raises(ValueError, match="no training frame has forces: if they have"):
        make_module(config, without)


# Configuration and data.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{model: {elements: [H]}, data: {files: [a]}, trainning: {}}", "'training'"),
        (
            "{model: {elements: [H]}, data: {files: [a]}, training: {lerning_rate: 1}}",
            "did you mean 'learning_rate'",
        ),
        ("{model: {elements: [H]}, data: {files: []}}", "at least one"),
        ("{model: {elements: [H]}, data: &d {files: [a]}, training: *d}", "aliases"),
        ("{model: {elements: [H]}, data: {files: [a]}, training: {steps: 0}}", "steps"),
        ("[1, 2]", "model, data and training"),
        ("model: {elements: [H]}\ndata: {files: [a]}\ndata: {files: [b]}", "'data' is"),
        (
            "{model: {elements: [H]}, data: {files: [a]}, training: {steps: 1, steps: "
            "2}}",
            "'steps' is given twice",
        ),
        ("{model: {elements: [H]}, data: {files: [a]}, zzz: 1}", "known: .*'preset'"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
        ("[" * 5000 + "]" * 5000, "nested too deeply"),
        ("{preset: [default], model: {}, data: {files: [a]}}", "preset must be one of"),
        ("{model: {elements: [H], 1: 2}, data: {files: [a]}}", "unknown key 1"),
        (
            "{model: {elements: [H]}, data: {files: [a], self_energies: {1: 2, H: 3}}}",
            "self_energies",
        ),
        (
            "{model: {elements: [H]}, data: {files: [a], split: {fractions: "
            "[.nan, 0.5, 0.5]}}}",
            "add up to 1",
        ),
    ],
)
def test_wrong_configurations_are_refused(tmp_path, text, message):
    path = tmp_path / "train.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config(path)


def test_configuration_file(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(
        "model: {elements: [H, O], channels: 8}\n"
        "data: {files: [data/a.h5]}\n"
        "training: {learning_rate: 2e-3, clip_norm: null}\n"
    )
    config = read_config(path)
    assert config.training.learning_rate == 2e-3
    assert config.training.clip_norm is None
    assert config.data.files == (Source(str(tmp_path / "data/a.h5")),)
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(config.to_dict()))
    assert read_config(again) == config


def test_data_that_do_not_fit_are_refused(config, tmp_path):
    other = dataclasses.replace(TINY, elements=("H", "C"))
    with pytest.raises(ValueError, match=r"\['O'\], which model.elements lack"):
        training_run.train(dataclasses.replace(config, model=other), tmp_path)
    frames = tuple(f for f in analytic_frames() if f.split == "train")
    path = tmp_path / "no-validation.h5"
    write_hdf5(path, Dataset(Frames.of(frames), LevelOfTheory(), SELF_ENERGIES))
    without = dataclasses.replace(config, data=DataConfig((Source(str(path)),)))
    with pytest.raises(ValueError, match="no validation frames"):
        training_run.train(without, tmp_path / "run")


def test_bad_frames_are_refused_before_training(config, tmp_path):
    frames = analytic_frames()
    broken = frames[0].positions.copy()
    broken[1, 2] = np.nan
    cases = {
        "a position is nan": [
            dataclasses.replace(frames[0], positions=broken),
            *frames[1:],
        ],
        "no validation frames": [f for f in frames if f.split == "train"][:1],
        "no train frames": [f for f in frames if f.split != "train"],
    }
    for message, chosen in cases.items():
        dataset = Dataset(Frames.of(chosen), LevelOfTheory(), SELF_ENERGIES)
        with pytest.raises(ValueError, match=message):
            training_run.make_module(config, dataset)
    with pytest.raises(ValueError, match="no self-energy for atomic numbers"):
        Frames.of(frames).isolated_energies({1: -13.0})
