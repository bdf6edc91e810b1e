"""Errors by their definitions, and figures of them."""

from __future__ import annotations

import dataclasses
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from springs import WARNINGS, analytic_frame, analytic_frames, make_graphs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of DGL and Lightning while they are imported

    from openmm_se3.training.batches import import_dgl

    import_dgl()

from openmm_se3 import plot_style
from openmm_se3.training.metrics import (
    Predictions,
    error_table,
    frame_groups,
    reference_forces,
)
from openmm_se3.training.report import PANELS, plot_history, plot_parity
from openmm_se3.training.schedule import (
    validations_since_best,
)

pytestmark = WARNINGS


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_predictions_that_are_not_finite_do_not_vanish_from_the_errors(wrong):
    graphs = make_graphs(analytic_frames()[:3])
    forces, energies = reference_forces(graphs), graphs.energies.numpy().copy()
    graphs.energies[2] = math.nan  # no label: does not count
    energies[1], forces[-1, 0] = wrong, wrong
    errors = error_table(graphs, Predictions(energies, forces), {})["all"]
    for key in ("energy_mae", "force_mae", "force_rmse"):
        assert not math.isfinite(errors[key]), key
    assert validations_since_best([wrong, 2.0, 1.0, 3.0]) == 1


def test_errors_by_their_definitions():
    """Energies by frame and by atom, forces by component, groups by their atoms."""
    rng = np.random.default_rng(5)
    frames = [analytic_frame(n, rng, "test", n) for n in (1, 3, 2)]
    graphs = make_graphs(frames)
    energy_errors = np.array([0.3, -1.2, 0.6])
    labels = reference_forces(graphs)
    force_errors = rng.normal(scale=0.1, size=labels.shape)
    force_errors[4] *= 20.0  # in the second frame
    predictions = Predictions(
        graphs.energies.numpy() + energy_errors, labels + force_errors
    )
    table = error_table(graphs, predictions, frame_groups(graphs.frames))
    kcal, sizes = 23.060548, np.array([3, 9, 6])
    by_frame = [np.abs(e).mean() for e in np.split(force_errors, [3, 12])]
    expected = {
        "frames": 3,
        "energy_mae": kcal * (0.3 + 1.2 + 0.6) / 3,
        # The mean over frames of |error| / atoms, not the ratio of means.
        "energy_mae_per_atom": kcal * (np.abs(energy_errors) / sizes).mean(),
        "energy_mae_centered": kcal * np.abs(energy_errors + 0.1).mean(),
        "energy_rmse": kcal * np.sqrt(np.square(energy_errors).mean()),
        "force_mae": kcal * np.abs(force_errors).mean(),
        "force_rmse": kcal * np.sqrt(np.square(force_errors).mean()),
        "force_mae_worst": kcal * by_frame[1],
    }
    assert max(by_frame) == by_frame[1]
    assert table["all"] == pytest.approx(expected, rel=1e-6)
    oxygen = np.tile([True, False, False], 6)
    assert table["element O"]["force_mae"] == pytest.approx(
        kcal * np.abs(force_errors[oxygen]).mean(), rel=1e-6
    )
    assert "energy_mae" not in table["element O"]  # no frame is oxygen alone
    assert table["H4O2 md 300 K"]["energy_mae"] == pytest.approx(kcal * 0.6, rel=1e-6)


@pytest.fixture
def figures(monkeypatch):
    """Collect figures in place of writing them."""
    drawn = []
    monkeypatch.setattr(plot_style, "save", lambda path, figure: drawn.append(figure))
    return drawn


def test_learning_curves_show_what_the_history_has(figures):
    row = {"step": 500.0, "train_loss": 1e-2, "validation_loss": 2e-2}
    row |= {"energy_mae": 0.11, "energy_rmse": 0.12}
    without = {"force_mae": math.nan, "force_rmse": math.nan}
    forces = {"force_mae": 0.5, "force_rmse": 0.9, "direct_force_mae": 1.1}
    for known in (without, forces):
        plot_history(Path(), [{**row, **known}, {**row, **known, "step": 1000.0}])
    labels = [axes.get_ylabel() for axes in figures[0].axes]
    assert labels == list(PANELS)
    assert all("(" in label for label in labels), "no unit"
    curves = [line.get_label() for line in figures[1].axes[2].lines]
    assert curves == ["MAE", "RMSE", "direct MAE"]


def test_parity_leaves_out_what_is_not_labeled(figures):
    frames = analytic_frames()[:3]
    frames[1] = dataclasses.replace(frames[1], forces=None)
    graphs = make_graphs(frames)
    energies, labels = graphs.energies.numpy(), reference_forces(graphs)
    zeros = np.zeros_like(labels)
    plot_parity(Path(), graphs, Predictions(energies, zeros))
    nothing = make_graphs([frames[1]])
    plot_parity(Path(), nothing, Predictions(energies[1:2], zeros[:3], zeros[:3]))
    energy, force = figures[0].axes
    assert len(force.lines[0].get_xdata()) == 18  # components of two molecules
    for axes in (energy, force):
        assert axes.get_xlim() == axes.get_ylim()
        assert np.isfinite(axes.get_xlim()).all()
    mae = 23.060548 * np.nanmean(np.abs(labels))
    assert force.texts[0].get_text() == f"MAE {mae:.3g} kcal/mol/Å"
    unlabeled = [axes.texts[0].get_text() for axes in figures[1].axes[1:]]
    assert unlabeled == ["no labels", "no labels"]


@pytest.mark.parametrize("values", [[0.31, 0.33], [1e-6, 3.0], [2.0], [0.0, math.nan]])
def test_logarithmic_axes_have_ends_and_few_numbers(values):
    axes = Figure().subplots()
    plot_style.logarithmic(axes, values)
    if max(values) > 0.0:
        low, high = axes.get_ylim()
        assert low <= min(values) and high > max(values)
        ticks = [t for t in axes.get_yticks() if low * 0.999 < t < high * 1.001]
        assert 2 <= len(ticks) <= 8
        assert (ticks[0], ticks[-1]) == pytest.approx((low, high))
    assert (axes.get_yscale() == "log") == (max(values) > 0.0)
