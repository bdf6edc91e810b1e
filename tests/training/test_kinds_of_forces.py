"""Direct forces, energies alone, fine-tuning, presets."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
import yaml
from rich.console import Console
from springs import TINY, WARNINGS, analytic_frames, changed, evaluate, make_graphs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of DGL and Lightning while they are imported

    from openmm_se3.training import run as training_run
    from openmm_se3.training.batches import import_dgl

    import_dgl()

from openmm_se3.data.frames import Frames
from openmm_se3.export import export_model
from openmm_se3.training.batches import (
    BatchOrder,
)
from openmm_se3.training.checkpoint import BEST, load_checkpoint
from openmm_se3.training.config import (
    RunConfig,
    TrainingConfig,
)
from openmm_se3.training.config_file import read_config
from openmm_se3.training.metrics import (
    UNITS,
    Predictions,
    error_table,
    predict,
    reference_forces,
)
from openmm_se3.training.prepare import read_data
from openmm_se3.training.presets import PRESETS
from openmm_se3.training.progress import CHARTS, TensorBoard
from openmm_se3.training.progress import FOLDER as TENSORBOARD
from openmm_se3.training.report import error_report
from openmm_se3.training.schedule import (
    learning_rate,
)
from openmm_se3.training.step import (
    TrainingModule,
)

pytestmark = WARNINGS


def test_direct_forces_train_the_force_head(config):
    graphs = make_graphs(analytic_frames()[:4])
    network = training_run.SE3Transformer(
        dataclasses.replace(TINY, force_mode="direct")
    )
    before = network.force_head.weight.detach().clone()
    settings = changed(config, steps=5).training
    module = TrainingModule(
        network, settings, BatchOrder(np.ones(4), 2, 0), graphs, graphs
    )
    training_run.fit(module)
    assert (network.force_head.weight - before).abs().max() > 0.0
    assert module.skipped == 0


def test_conservative_and_direct_forces_learn_together(config):
    graphs = make_graphs(analytic_frames()[:4])
    torch.manual_seed(0)
    network = training_run.SE3Transformer(dataclasses.replace(TINY, force_mode="both"))
    settings = changed(
        config, steps=150, validate_every=50, learning_rate=1e-2
    ).training
    order = BatchOrder(np.ones(4), 4, 0)
    module = TrainingModule(network, settings, order, graphs, graphs)
    before = evaluate(copy.deepcopy(network).eval(), graphs)["all"]
    training_run.fit(module)
    after = evaluate(module.average, graphs)["all"]
    for key in ("energy_mae", "force_mae", "direct_force_mae"):
        assert after[key] < 0.7 * before[key], key
    row = module.history[-1]
    assert row["direct_force_mae"] == pytest.approx(after["direct_force_mae"])
    parts = ("loss", "loss_energy", "loss_forces", "loss_direct")
    for kind in ("train", "validation"):
        total, *terms = (row[f"{kind}_{part}"] for part in parts)
        assert min(terms) > 0.0 and total == pytest.approx(sum(terms))
    assert "direct F MAE" in error_report({"train": {"all": after}})
    one_kind = {key: x for key, x in after.items() if key in ("frames", *UNITS)}
    assert "direct" not in error_report({"train": {"all": one_kind}})


def test_errors_of_direct_forces_and_of_their_estimate():
    graphs = make_graphs(analytic_frames()[:4])
    labels, rng = reference_forces(graphs), np.random.default_rng(0)
    energies = graphs.energies.numpy()
    wrong = labels + rng.normal(scale=0.1, size=labels.shape)
    kcal = 23.060548

    def errors(forces, direct):
        return error_table(graphs, Predictions(energies, forces, direct), {})["all"]

    # A head that is always right knows every error of the conservative forces.
    perfect = errors(wrong, labels)
    assert perfect["direct_force_mae"] == pytest.approx(0.0, abs=1e-12)
    assert perfect["estimate_correlation"] == pytest.approx(1.0)
    noise = errors(wrong, wrong + rng.normal(scale=0.1, size=labels.shape))
    assert abs(noise["estimate_correlation"]) < 0.6
    # Spearman's rank correlation, of a head that knows the errors in part.
    direct = labels + 0.5 * (wrong - labels) + rng.normal(scale=0.03, size=labels.shape)
    lengths = [np.linalg.norm(x, axis=1) for x in (direct - wrong, wrong - labels)]
    expected = scipy.stats.spearmanr(*lengths).statistic
    assert 0.3 < expected < 0.99
    assert errors(wrong, direct)["estimate_correlation"] == pytest.approx(expected)
    shifted = errors(labels, labels + 0.2)
    assert shifted["direct_force_mae"] == pytest.approx(0.2 * kcal, rel=1e-6)
    assert shifted["direct_force_rmse"] == pytest.approx(0.2 * kcal, rel=1e-6)
    assert shifted["force_mae"] == pytest.approx(0.0, abs=1e-12)


def test_energies_alone_train_without_forces(config):
    graphs = make_graphs(analytic_frames()[:4])
    for graph in graphs.graphs:
        graph.ndata["forces"][:] = float("nan")  # there are none
    settings = changed(config, steps=30, force_weight=0.0, validate_every=30).training
    order = BatchOrder(np.ones(4), 4, 0)
    torch.manual_seed(0)
    network = training_run.SE3Transformer(TINY)
    module = TrainingModule(network, settings, order, graphs, graphs)
    before = np.abs(predict(network.eval(), graphs).energies - graphs.energies.numpy())
    training_run.fit(module)
    after = np.abs(predict(module.average, graphs).energies - graphs.energies.numpy())
    assert module.skipped == 0 and after.mean() < 0.7 * before.mean()
    with pytest.raises(ValueError, match="nothing to train on"):
        TrainingConfig(energy_weight=0.0, force_weight=0.0)
    for mode in ("both", "direct"):
        model = dataclasses.replace(TINY, force_mode=mode)
        with pytest.raises(ValueError, match=f"{mode} trains on forces"):
            RunConfig(model, settings, config.data)
        dataset = read_data(config.data, Console(quiet=True))
        frames = dataset.frames
        blocks = [dataclasses.replace(b, forces=None) for b in frames.blocks]
        frames = Frames(blocks, frames.block, frames.row)
        dataset = dataclasses.replace(dataset, frames=frames)
        with pytest.raises(ValueError, match="no frame has any"):
            training_run.make_module(
                RunConfig(model, config.training, config.data), dataset
            )


def test_fine_tuning_starts_from_a_model(config, finished, tmp_path):
    best = load_checkpoint(finished / BEST)
    model = tmp_path / "model"
    export_model(best, model)
    dataset = read_data(config.data, Console(quiet=True))
    for start in (str(finished / BEST), str(model)):
        module = training_run.make_module(changed(config, initial=start), dataset)
        for network in (module.network, module.average):
            for name, value in network.state_dict().items():
                expected = best["average"][name].to(value.dtype)
                torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    other = dataclasses.replace(
        changed(config, initial=str(model)),
        model=dataclasses.replace(TINY, channels=4),
    )
    with pytest.raises(
        ValueError, match=r"put under 'model' what it has: channels: 8 \(here 4\)"
    ):
        training_run.make_module(other, dataset)
    with pytest.raises(FileNotFoundError, match="no model 'nothing'"):
        training_run.make_module(changed(config, initial="nothing"), dataset)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_make_networks_that_train(name, tmp_path, data_file):
    path = tmp_path / "train.yaml"
    path.write_text(
        f"preset: {name}\n"
        "model: {elements: [H, O], cutoff: 4.0, radial_width: 4}\n"
        "training: {steps: 2, warmup_steps: 0, validate_every: 2, batch_size: 3}\n"
        f"data: {{files: [{data_file}]}}\n"
    )
    config = read_config(path)
    assert config.training.batch_size == 3  # the file goes before the preset
    assert (config.training.learning_rate == 1e-3) == name.startswith("thesis")
    dataset = read_data(config.data, Console(quiet=True))
    module = training_run.make_module(config, dataset)
    training_run.fit(module)
    assert module.step == 2 and module.skipped == 0
    text = path.read_text().replace(name, "thesis-basics")
    path.write_text(text)
    with pytest.raises(ValueError, match="preset must be one of"):
        read_config(path)


THESIS = Path(__file__).parents[2] / "examples/thesis"


@pytest.mark.parametrize("name", sorted(f.stem for f in THESIS.glob("*.yaml")))
def test_configurations_of_the_thesis_train(name, tmp_path, data_file):
    values = yaml.safe_load((THESIS / f"{name}.yaml").read_text())
    assert values["model"]["elements"] == ["H", "C", "N", "O"]
    values["model"] |= {"elements": ["H", "O"], "radial_width": 4}
    values["data"]["files"] = [str(data_file)]
    if "self_energies" in values["data"]:
        values["data"]["self_energies"] = {"H": 0.0, "O": 0.0}
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(values))
    full = read_config(path).training
    rates = [learning_rate(full, step) for step in (0, full.steps - 1)]
    first_attempt = name in ("fig-3.2", "fig-3.3")
    assert rates == pytest.approx([1e-3, 1e-7 if first_attempt else 1e-3])
    assert full.normalize != first_attempt
    short = {"steps": 3, "validate_every": 3, "batch_size": 4}
    values["training"] = {**values.get("training", {}), **short}
    path.write_text(yaml.safe_dump(values))
    config = read_config(path)
    dataset = read_data(config.data, Console(quiet=True))
    module = training_run.make_module(config, dataset)
    assert module.compiled is None
    before = {k: v.clone() for k, v in module.network.state_dict().items()}
    training_run.fit(module)
    assert module.step == 3 and module.skipped == 0
    assert any(
        not torch.equal(before[k], v) for k, v in module.network.state_dict().items()
    )


def test_tensorboard_holds_the_history(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(finished / TENSORBOARD)).Reload()
    history = load_checkpoint(finished / BEST)["history"]
    points = log.Scalars(CHARTS["force_mae"])
    assert [point.step for point in points] == [row["step"] for row in history]
    expected = [row["force_mae"] for row in history]
    assert [point.value for point in points] == pytest.approx(expected, rel=1e-6)


def test_tensorboard_hides_no_error_of_a_run_that_never_started(tmp_path):
    log = TensorBoard(tmp_path)
    log.on_end()
