"""Checkpoints hold the whole state; damaged ones are refused."""

from __future__ import annotations

import dataclasses
import errno
import pickle
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from springs import (
    TINY,
    WARNINGS,
    analytic_frames,
    assert_same_run,
    changed,
    make_graphs,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of DGL and Lightning while they are imported

    from openmm_se3.training import run as training_run
    from openmm_se3.training.batches import import_dgl

    import_dgl()

from openmm_se3.files import LockedError, run_lock
from openmm_se3.signals import Signals
from openmm_se3.training.batches import (
    BatchOrder,
)
from openmm_se3.training.checkpoint import LAST, load_checkpoint, load_last
from openmm_se3.training.session import Session
from openmm_se3.training.step import (
    TrainingModule,
)

pytestmark = WARNINGS


def test_a_restored_module_has_the_whole_state(config):
    """Also what these short runs do not depend on, such as the mean gradient norm."""
    graphs = make_graphs(analytic_frames()[:4])
    settings = changed(config, clip_ratio=2.0, steps=5, validate_every=2).training
    order = BatchOrder(np.ones(4), 2, 0)
    modules = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = training_run.SE3Transformer(TINY)
        modules.append(TrainingModule(network, settings, order, graphs, graphs))
    trained, restored = modules
    training_run.fit(trained)
    trained.running += 1.0
    trained.skipped, trained.skipped_in_a_row = 3, 2
    restored.restore(trained.state())
    states = trained.state(), restored.state()
    for state in states:
        assert state.pop("seconds") > 0.0
    assert states[0]["log_norm"] is not None and states[0]["step"] == 5
    torch.testing.assert_close(states[1], states[0], rtol=0.0, atol=0.0)


def test_one_process_at_a_time_trains_in_a_folder(config, tmp_path):
    with (
        run_lock(tmp_path / training_run.LOCK),
        pytest.raises(LockedError, match="let it end first"),
    ):
        training_run.train(config, tmp_path)
    short = changed(config, steps=2, warmup_steps=0)
    assert training_run.train(short, tmp_path).finished
    assert not (tmp_path / training_run.LOCK).exists()


def test_a_step_that_was_not_finite_is_no_checkpoint(tmp_path):
    session = Session(tmp_path, {}, Signals(), 5.0, None, None, 0.0)
    session.save(SimpleNamespace(skipped_in_a_row=1, state=dict))
    assert not (tmp_path / LAST).exists()
    session.save(SimpleNamespace(skipped_in_a_row=0, state=dict))
    assert (tmp_path / LAST).exists()


def test_full_disk_loses_nothing(config, finished, tmp_path, monkeypatch, no_figures):
    real_save, saves = torch.save, []

    def save(content, path):
        saves.append(path)
        if len(saves) == 4:  # the second validation's last.pt
            raise OSError(errno.ENOSPC, "No space left on device")
        real_save(content, path)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        with pytest.raises(OSError, match="No space left"):
            training_run.train(config, tmp_path)
    left = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert left <= set(training_run.FILES), left  # no half of a file
    assert load_last(tmp_path)["step"] == 8
    assert training_run.train(config, tmp_path, resume=True).finished
    assert_same_run(finished, tmp_path)


def test_what_a_killed_run_was_writing_goes(tmp_path):
    unfinished, other = tmp_path / ".last.0a1b2c3d.pt", tmp_path / ".mine.0a1b2c3d.pt"
    for path in (unfinished, other):
        path.write_bytes(b"half of a checkpoint")
    for resume in (False, True):
        unfinished.touch()
        assert training_run.open_folder(tmp_path, resume, overwrite=False) is None
        assert not unfinished.exists() and other.exists()


def test_checkpoint_of_another_network_is_refused(config, finished):
    other = dataclasses.replace(config, model=dataclasses.replace(TINY, lmax=2))
    with pytest.raises(ValueError, match="model.lmax: 1 in the checkpoint, 2 now"):
        training_run.train(other, finished, resume=True)


# Checkpoints.


def test_damaged_checkpoint_falls_back_on_the_one_before(finished, tmp_path):
    good = (finished / LAST).read_bytes()
    flipped = bytearray(good)
    # Longer than the padding between the parts of the archive, which no sum covers.
    for place in range(len(good) // 2, len(good) // 2 + 256):
        flipped[place] ^= 0xFF
    for content in (good[: len(good) // 2], bytes(flipped), b""):
        (tmp_path / LAST).write_bytes(content)
        (tmp_path / "previous.pt").write_bytes((finished / "previous.pt").read_bytes())
        with pytest.warns(UserWarning, match=r"goes on from previous.pt, step 16"):
            assert load_last(tmp_path)["step"] == 16
        assert not (tmp_path / LAST).exists()
    (tmp_path / "previous.pt").write_bytes(b"no")
    with pytest.raises(ValueError, match="damaged"):
        load_last(tmp_path)


class Canary:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_checkpoint_that_holds_code_is_refused(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / LAST
    torch.save({"format": "openmm-se3 checkpoint", "x": Canary(str(canary))}, path)
    with pytest.raises(ValueError, match="damaged or not a checkpoint"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Canary(str(canary))))
    with pytest.raises(ValueError, match="damaged or not a checkpoint"):
        load_checkpoint(path)
    assert not canary.exists()
