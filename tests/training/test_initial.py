"""Fine-tuning: what a run that starts from a model begins with."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from committees import write_weights
from rich.console import Console
from springs import SELF_ENERGIES, WARNINGS, analytic_frames, changed

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of DGL and Lightning while they are imported

    from openmm_se3.training import prepare
    from openmm_se3.training import run as training_run
    from openmm_se3.training.batches import import_dgl
    from openmm_se3.training.page import write_page

    import_dgl()

from openmm_se3.committee import committee_of
from openmm_se3.data.dataset import Dataset
from openmm_se3.data.formats.hdf5 import write_hdf5
from openmm_se3.data.frames import Frame, Frames
from openmm_se3.data.level_of_theory import LevelOfTheory
from openmm_se3.data.load import Source
from openmm_se3.export import model_of_checkpoint
from openmm_se3.training.checkpoint import BEST, LAST, load_checkpoint
from openmm_se3.training.config import DataConfig, RunConfig
from openmm_se3.training.initial import InitialModel

pytestmark = WARNINGS
QUIET = Console(quiet=True)
SHIFTS = {1: 0.7, 8: -4.0}  # eV, of another level of theory
ISOLATED = {1: -12.0, 8: -2003.0}  # its atoms, which are not the model's


@pytest.fixture(autouse=True)
def labels_of_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Energies of a network that has hardly learned do not look like a molecule's."""
    monkeypatch.setattr(prepare, "require_plausible", lambda *args: None)


def frames_of(
    start: InitialModel, shifts: dict[int, float], others: bool
) -> list[Frame]:
    """Return frames whose energies are the model's, shifted by element."""
    frames = analytic_frames()
    if others:
        # Without one atom, so that compositions tell the elements apart.
        frames += [
            dataclasses.replace(
                frame,
                numbers=frame.numbers[1:],
                positions=frame.positions[1:],
                forces=frame.forces[1:],
                trajectory=f"{frame.trajectory}-less",
            )
            for frame in frames
        ]
    interaction = start.interaction_energies(Frames.of(frames))
    shifted = {z: start.self_energies[z] + shifts[z] for z in shifts}
    return [
        dataclasses.replace(
            frame, energy=float(energy) + sum(shifted[int(z)] for z in frame.numbers)
        )
        for frame, energy in zip(frames, interaction, strict=True)
    ]


def tuning(
    config: RunConfig, start: Path, frames: list[Frame], path: Path, **settings: object
) -> RunConfig:
    """Return a run on these frames, whose file has self-energies of its own."""
    level = LevelOfTheory(method="shifted springs")
    write_hdf5(path, Dataset(Frames.of(frames), level, ISOLATED))
    return dataclasses.replace(
        changed(config, initial=str(start), learning_rate=1e-9, **settings),
        data=DataConfig((Source(str(path)),)),
    )


def energy_error(config: RunConfig, folder: Path) -> float:
    """Return the largest energy error at the start of a run, kcal/mol."""
    settings = dict(steps=2, warmup_steps=1, validate_every=2)
    run = dataclasses.replace(
        config, training=dataclasses.replace(config.training, **settings)
    )
    outcome = training_run.train(run, folder, console=QUIET)
    assert outcome.errors is not None
    return max(outcome.errors[s]["all"]["energy_rmse"] for s in ("train", "test"))


def test_energies_are_right_before_the_first_step(
    config: RunConfig, finished: Path, tmp_path: Path, no_figures: None
) -> None:
    start = finished / BEST
    model = InitialModel.load(str(start))
    frames = frames_of(model, SHIFTS, others=True)
    run = tuning(config, start, frames, tmp_path / "data.h5")
    assert energy_error(run, tmp_path / "run") < 0.01
    fitted = load_checkpoint(tmp_path / "run" / BEST)["self_energies"]
    expected = {"H": SELF_ENERGIES[1] + 0.7, "O": SELF_ENERGIES[8] - 4.0}
    assert fitted == pytest.approx(expected, abs=1e-4)


def test_one_composition_gets_right_energies_too(
    config: RunConfig, finished: Path, tmp_path: Path, no_figures: None
) -> None:
    """Water alone: the change of smallest norm that explains the shift."""
    start = finished / BEST
    frames = frames_of(InitialModel.load(str(start)), SHIFTS, others=False)
    run = tuning(config, start, frames, tmp_path / "data.h5")
    assert energy_error(run, tmp_path / "run") < 0.01
    fitted = load_checkpoint(tmp_path / "run" / BEST)["self_energies"]
    changes = fitted["H"] - SELF_ENERGIES[1], fitted["O"] - SELF_ENERGIES[8]
    assert changes == pytest.approx((2 * -2.6 / 5, -2.6 / 5), abs=1e-4)


def test_self_energies_that_fit_are_kept(
    config: RunConfig, finished: Path, tmp_path: Path
) -> None:
    """Given ones always, and those of the data where the model has the same."""
    start = finished / BEST
    model = InitialModel.load(str(start))
    frames = frames_of(model, {1: 0.01, 8: 0.01}, others=True)
    run = tuning(config, start, frames, tmp_path / "data.h5")
    same = tmp_path / "same.h5"
    write_hdf5(same, Dataset(Frames.of(frames), LevelOfTheory(), SELF_ENERGIES))
    given: dict[str, float] = {"H": -12.5, "O": -2001.0}
    for data, expected in (
        (DataConfig((Source(str(same)),)), SELF_ENERGIES),
        (dataclasses.replace(run.data, self_energies=given), {1: -12.5, 8: -2001.0}),
    ):
        assert training_run.read_data(data, QUIET, model).self_energies == expected


def test_elements_that_the_data_lack_keep_their_self_energy(
    finished: Path, tmp_path: Path
) -> None:
    """A model needs them for all its elements."""
    model = InitialModel.load(str(finished / BEST))
    hydrogen = [
        dataclasses.replace(
            frame, numbers=frame.numbers[1:3], positions=frame.positions[1:3]
        )
        for frame in analytic_frames()
    ]
    hydrogen = [
        dataclasses.replace(frame, forces=np.zeros((2, 3)), energy=-30.0)
        for frame in hydrogen
    ]
    path = tmp_path / "hydrogen.h5"
    write_hdf5(path, Dataset(Frames.of(hydrogen), LevelOfTheory(), {1: -13.5}))
    for choice in ("auto", {"H": -13.5}):
        data = DataConfig((Source(str(path)),), self_energies=choice)
        energies = training_run.read_data(data, QUIET, model).self_energies
        assert energies[8] == SELF_ENERGIES[8]
        assert (energies[1] == -13.5) == (choice != "auto")


def test_resumed_run_keeps_what_it_fitted(
    config: RunConfig,
    finished: Path,
    tmp_path: Path,
    no_figures: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = finished / BEST
    frames = frames_of(InitialModel.load(str(start)), SHIFTS, others=True)
    run = tuning(config, start, frames, tmp_path / "data.h5")
    folder = tmp_path / "run"
    assert not training_run.train(run, folder, max_epochs=1, console=QUIET).finished
    before = load_checkpoint(folder / LAST)["self_energies"]

    def not_again(*args: object) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr(InitialModel, "interaction_energies", not_again)
    assert training_run.train(run, folder, resume=True, console=QUIET).finished
    assert load_checkpoint(folder / BEST)["self_energies"] == before


def test_committee_gives_its_first_member(finished: Path, tmp_path: Path) -> None:
    best = load_checkpoint(finished / BEST)
    other = {name: 1.1 * value for name, value in best["average"].items()}
    members = [
        model_of_checkpoint({**best, "average": weights}, name, "MIT")
        for name, weights in (("first", best["average"]), ("second", other))
    ]
    write_weights(committee_of(members, "both"), tmp_path / "both")
    found = InitialModel.load(str(tmp_path / "both"))
    weights = found.weights_for(found.config)
    for name, value in best["average"].items():
        torch.testing.assert_close(weights[name].double(), value.double())


def test_decay_towards_the_initial_weights_holds_them(
    config: RunConfig,
    finished: Path,
    tmp_path: Path,
    no_figures: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A weight moves about 1/decay at most; without decay it moves further."""
    start = finished / BEST
    model = InitialModel.load(str(start))
    rng = np.random.default_rng(2)
    frames = [
        dataclasses.replace(frame, forces=rng.normal(size=frame.forces.shape))
        for frame in frames_of(model, SHIFTS, others=False)
    ]
    run = tuning(config, start, frames, tmp_path / "data.h5")
    moved = {}
    for decay in (0.0, 50.0):
        settings = dict(learning_rate=5e-3, initial_decay=decay, schedule="constant")
        folder = tmp_path / f"run-{decay:g}"
        training_run.train(changed(run, **settings), folder, console=QUIET)
        weights = load_checkpoint(folder / LAST)["network"]
        moved[decay] = max(
            float((weights[name] - value).abs().max())
            for name, value in model.weights.items()
        )
        monkeypatch.setattr(training_run, "write_page", write_page)  # for the last
    assert "initial_decay: 50" in (tmp_path / "run-50/report.html").read_text()
    assert moved[50.0] < 1.0 / 50.0 < 0.5 * moved[0.0]
    with pytest.raises(ValueError) as caught:
        changed(config, initial_decay=1.0)
    assert "training.initial" in str(caught.value)
