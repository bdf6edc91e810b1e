"""Data, settings and a finished run of springs."""

from __future__ import annotations

import warnings

import pytest
from figures import leave_out_figures
from springs import SELF_ENERGIES, SHORT, TINY, analytic_frames

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
    RunConfig,
)


@pytest.fixture(scope="session")
def data_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "springs.h5"
    frames = tuple(analytic_frames())
    write_hdf5(
        path, Dataset(Frames.of(frames), LevelOfTheory(method="springs"), SELF_ENERGIES)
    )
    return path


@pytest.fixture(scope="session")
def config(data_file):
    return RunConfig(TINY, SHORT, DataConfig((Source(str(data_file)),)))


@pytest.fixture(scope="session")
def finished(config, tmp_path_factory):
    """A run from start to end without a stop."""
    folder = tmp_path_factory.mktemp("finished")
    outcome = training_run.train(config, str(folder))
    assert outcome.finished and outcome.step == SHORT.steps
    return folder


@pytest.fixture
def no_figures(monkeypatch):
    """Figures take longer than these runs; one test looks at them."""
    leave_out_figures(monkeypatch)
