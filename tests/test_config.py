"""Configurations: round trips, and refusals that name the field and the fix."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from random_model import small_config

from openmm_se3.config import ModelConfig, from_dict, to_dict


def test_round_trip_through_json() -> None:
    config = small_config(jmax=3, symmetry="SO(3)", kernel="full")
    assert (
        from_dict(ModelConfig, json.loads(json.dumps(to_dict(config))), "model")
        == config
    )


def test_numbers_of_yaml() -> None:
    """YAML and JSON have no tuples and write 6 for 6.0."""
    config = from_dict(
        ModelConfig, {"elements": ["H", "O"], "cutoff": 6, "jmax": None}, "model"
    )
    assert config == ModelConfig(elements=("H", "O"))
    assert isinstance(config.cutoff, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chanels": 8}, "'chanels' in model; did you mean 'channels'"),
        ({"zzz": 8}, "unknown key 'zzz'.*known: .*'elements'"),
        ({"channels": 8.0}, "channels must be int, got 8.0"),
        ({"channels": True}, "channels must be int, got True"),
        ({"channels": "8"}, "channels must be int, got '8'"),
        ({"cutoff": "6"}, "cutoff must be float, got '6'"),
        ({"cutoff": True}, "cutoff must be float, got True"),
        ({"cutoff": False}, "cutoff must be float, got False"),
        ({"cutoff": None}, "cutoff must be float, got None"),
        ({"zbl": 1}, "zbl must be bool, got 1"),
        ({"jmax": 2.5}, "jmax must be .*int.*None.*, got 2.5"),
        ({"kernel": "wide"}, r"kernel must be one of \['depthwise', 'full'\]"),
        ({"elements": "HO"}, "elements must be a list, got 'HO'"),
        ({"elements": [1, 8]}, "elements must be str, got 1"),
        ({"elements": []}, "different chemical symbols"),
        ({"elements": ["H", "H"]}, r"different chemical symbols.*\['H', 'H'\]"),
        ({"elements": ["h", "O"]}, r"chemical symbols.*\['h', 'O'\]"),
        ({"layers": 0}, "layers must be from 1 to 64, got 0"),
        ({"heads": 0}, "heads must be from 1 to"),
        ({"layers": 1_000_000}, "layers must be from 1 to 64, got 1000000"),
        ({"lmax": 50, "jmax": 50}, "lmax must be at most"),
        ({1: 2}, "unknown key 1"),
        ({"cutoff": -1.0}, "cutoff must be in A and positive, got -1.0"),
        ({"cutoff": float("nan")}, "cutoff must be in A and positive, got nan"),
        ({"cutoff": float("inf")}, "cutoff must be in A and positive, got inf"),
        ({"energy_scale": 0.0}, "energy_scale must be positive"),
        ({"energy_scale": float("nan")}, "energy_scale must be positive"),
        ({"lmax": -1}, "0 <= lmax"),
        ({"jmax": 1}, "lmax=2, jmax=1"),
        ({"force_mode": "direct", "lmax": 0}, "lmax of at least 1"),
        ({"force_mode": "both", "lmax": 0}, "lmax of at least 1"),
        ({"channels": 6, "heads": 4}, "channels=6 must be a multiple of heads=4"),
        (
            {"key_channels": 2, "heads": 4},
            "key_channels=2 must be a multiple of heads=4",
        ),
    ],
    ids=str,
)
def test_wrong_values_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dict(ModelConfig, {**to_dict(small_config(channels=4)), **change}, "model")


def test_elements_are_needed() -> None:
    with pytest.raises(ValueError, match=r"model needs \['elements'\]"):
        from_dict(ModelConfig, {"channels": 4}, "model")


def test_configurations_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        small_config().channels = 8  # type: ignore[misc]
