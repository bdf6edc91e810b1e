"""``openmm-se3 models`` says of each shipped model what its files say."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from openmm_se3 import cli
from openmm_se3.shipped import models_folder, shipped_models


def shown(*arguments: str) -> str:
    result = CliRunner().invoke(cli.main, ["models", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_each_model_is_described() -> None:
    blocks = dict(block.split("\n", 1) for block in shown().split("\n\n"))
    assert set(blocks) == set(shipped_models()) >= {"organic", "water", "liquid-water"}
    for name, block in blocks.items():
        values = json.loads((models_folder() / name / "config.json").read_text())
        rows = dict(line.split(maxsplit=1) for line in block.splitlines())
        assert rows["elements"] == " ".join(values["model"]["elements"])
        assert rows["license"] == "MIT"
        members = values.get("member_descriptions", [])
        for one in members or [values]:
            error = one["errors"]["test"]["all"]["force_mae"]
            assert f"{error:.2f}" in rows["force"]
        assert ("committee" in rows) == bool(members)
        assert (models_folder() / name / "card.md").is_file()


def test_the_folders_alone() -> None:
    assert shown("--paths").split() == list(map(str, shipped_models().values()))


def test_an_installation_without_models_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr("openmm_se3.shipped.models_folder", lambda: tmp_path)
    result = CliRunner().invoke(cli.main, ["models"])
    assert result.exit_code == 1
    assert "no models" in result.output
