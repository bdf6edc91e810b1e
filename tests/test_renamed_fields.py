"""Files and calls of before 0.2 keep opening: old names of settings, older defaults."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from random_model import SMALLEST, random_checkpoint, small_config

from openmm_se3.config import ModelConfig, from_dict, to_dict
from openmm_se3.description import DESCRIPTION
from openmm_se3.export import export_model, model_of_checkpoint
from openmm_se3.model_file import contents, load_model
from openmm_se3.renamed_fields import with_old_names
from openmm_se3.training.checkpoint import load_checkpoint, save_checkpoint
from openmm_se3.training.config import TrainingConfig
from openmm_se3.training.config_file import read_config

OLD_YAML = """
preset: default
model: {elements: [H, O], mirror: false, wall: false}
training: {average_decay: 0.5, product_rate: 0.25, engine: pytorch}
data: {files: [water.h5]}
"""


def test_yaml_files_with_old_names(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(OLD_YAML)
    with pytest.warns(FutureWarning) as caught:
        config = read_config(path)
    # The preset has an ema_decay too: what the file says goes before it.
    assert (config.model.symmetry, config.model.zbl) == ("SO(3)", False)
    assert config.training.ema_decay == 0.5
    assert config.training.product_lr_scale == 0.25
    assert config.training.implementation == "pytorch"
    said = " ".join(str(warning.message) for warning in caught)
    for text in ("symmetry: SO(3)", "zbl: False", "ema_decay", "product_lr_scale"):
        assert text in said
    assert "implementation: pytorch" in said


def test_a_wrong_value_under_an_old_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"symmetry must be one of .*got 'yes'"):
        from_dict(ModelConfig, {"elements": ["H"], "mirror": "yes"}, "model")


@pytest.fixture
def old_model(model_copy: Path) -> Path:
    """Return the folder of a model as versions before 0.2 wrote it."""
    description = model_copy / DESCRIPTION
    content = json.loads(description.read_text())
    assert content["format_version"] == 2
    content["format_version"] = 1
    content["model"] = with_old_names("ModelConfig", content["model"])
    content["licence"] = content.pop("license")
    description.write_text(json.dumps(content))
    return model_copy


def test_models_of_the_old_format_open_without_a_warning(old_model: Path) -> None:
    model = load_model(old_model)
    assert model.metadata["format_version"] == 1
    assert "mirror" in model.metadata["model"]
    assert (model.config.symmetry, model.config.zbl) == ("O(3)", True)
    assert model.config.self_interaction == "attentive"
    # What runs of older versions know a network by has not changed.
    old = with_old_names("ModelConfig", to_dict(model.config))
    assert old == model.metadata["model"]


def test_old_model_files_without_the_key_are_attentive(
    exported_model: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exported_model, tmp_path / "model"))
    description = folder / "config.json"
    content = json.loads(description.read_text())
    assert content["format_version"] == 2
    assert content["model"].pop("self_interaction") == "attentive"
    content["format_version"] = 1
    description.write_text(json.dumps(content))
    assert load_model(folder).config.self_interaction == "attentive"
    assert small_config().self_interaction == "attentive"
    assert ModelConfig(("H", "O")).self_interaction == "linear"


def old_checkpoint(path: Path) -> dict[str, Any]:
    """Write and return a checkpoint as versions before 0.2 did."""
    content = random_checkpoint(**SMALLEST)
    model = with_old_names("ModelConfig", content["model"])
    del model["self_interaction"]  # the default then
    training = with_old_names("TrainingConfig", to_dict(TrainingConfig(ema_decay=0.5)))
    content = {**content, "model": model, "training": training}
    save_checkpoint(path, content)
    written = torch.load(path, weights_only=True)
    torch.save({**written, "format_version": 1}, path)
    return content


def test_the_license_of_a_model_that_has_a_licence(
    old_model: Path, tmp_path: Path
) -> None:
    model = load_model(old_model)
    assert "licence" in json.loads((old_model / DESCRIPTION).read_text())
    license_ = model.metadata["license"]
    assert license_
    with pytest.warns(DeprecationWarning, match="'license'"):
        assert model.metadata["licence"] == license_
    with pytest.raises(KeyError):
        model.metadata["price"]
    again = json.loads(contents(model)[DESCRIPTION])
    assert "licence" not in again and again["license"] == "MIT"
    with pytest.warns(DeprecationWarning, match="license"):
        written = export_model(
            random_checkpoint(**SMALLEST),
            tmp_path / "own",
            licence="CC0-1.0",  # type: ignore[call-arg]
        )
    assert written.metadata["license"] == "CC0-1.0"


def test_old_checkpoints_are_resumed_and_exported(tmp_path: Path) -> None:
    old = old_checkpoint(tmp_path / "last.pt")
    assert old["model"]["mirror"] is True and "symmetry" not in old["model"]
    checkpoint = load_checkpoint(tmp_path / "last.pt")
    assert checkpoint["model"] == to_dict(small_config(**SMALLEST))
    assert checkpoint["training"] == to_dict(TrainingConfig(ema_decay=0.5))
    model = model_of_checkpoint(checkpoint, "old", "MIT")
    assert model.config == small_config(**SMALLEST)
    assert model.metadata["model"]["symmetry"] == "O(3)"


def test_checkpoints_of_version_2_open_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    content = random_checkpoint(**SMALLEST)
    training = to_dict(TrainingConfig(implementation="pytorch"))
    old = {"engine": training.pop("implementation"), **training}
    save_checkpoint(path, {**content, "training": old})
    torch.save({**torch.load(path, weights_only=True), "format_version": 2}, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint = load_checkpoint(path)
    assert checkpoint["training"] == training | {"implementation": "pytorch"}
    assert checkpoint["model"] == content["model"]


def test_old_names_in_python_calls() -> None:
    with pytest.warns(DeprecationWarning, match="symmetry"):
        config = small_config(mirror=False)
    assert config == small_config(symmetry="SO(3)")
    with pytest.warns(DeprecationWarning, match="symmetry"):
        assert dataclasses.replace(config, mirror=True).symmetry == "O(3)"
    with pytest.warns(DeprecationWarning, match=r"ModelConfig\.symmetry"):
        assert config.mirror is False  # type: ignore[attr-defined]
    with pytest.warns(DeprecationWarning, match="ema_decay"):
        training = TrainingConfig(average_decay=0.5)  # type: ignore[call-arg]
    with pytest.warns(DeprecationWarning, match="ema_decay"):
        assert training.average_decay == 0.5  # type: ignore[attr-defined]
    with pytest.warns(DeprecationWarning, match="implementation"):
        training = TrainingConfig(engine="pytorch")  # type: ignore[call-arg]
    assert training == TrainingConfig(implementation="pytorch")
