"""The description of a model: what ``config.json`` holds, read and checked.

The description holds ``format``, ``format_version``, ``name``, ``model`` (the fields of
:class:`~openmm_se3.config.ModelConfig`), ``units``, ``level_of_theory``,
``self_energies``
(eV, by element), ``training_data`` (files and their SHA-256), ``errors`` (as measured),
``license``, ``versions``, ``domain`` (see :mod:`openmm_se3.domain`; models exported by
earlier versions have none), ``weights_sha256`` and ``reference``: one structure with
the energy and forces that the network must give for it.

A committee is one model with ``members``, their number; weights
are named ``member.K.NAME`` with K from 0, and ``reference`` has the mean and the
deviation of the members, see :mod:`openmm_se3.deviation`.  ``member_descriptions``
holds what a member has of its own, such as its errors; ``self_energies`` there is given
where they were fitted for each member, and the model's are then their mean.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from openmm_se3.config import DEFAULTS_OF_VERSION_1, ModelConfig, from_dict
from openmm_se3.domain import domain_from_dict
from openmm_se3.renamed_fields import RenamedKeys

DESCRIPTION = "config.json"
FORMAT = "openmm-se3 model"
FORMAT_VERSION = 2  # 2: new names of settings, committees
UNITS = {"length": "angstrom", "energy": "eV", "force": "eV/angstrom"}
REQUIRED = ("name", "model", "units", "level_of_theory", "self_energies", "reference")
MEMBERS = range(2, 9)  # of a committee


class ModelFileError(ValueError):
    """A file that is not a model of this package, or not a whole one."""


def parse_description(
    path: Path, description: bytes
) -> tuple[dict[str, Any], ModelConfig]:
    """Return a description and the shape of its network.

    Args:
        path: Where it comes from, for messages.
        description: Content of ``config.json``.

    Raises:
        ModelFileError: It is damaged, not one of ours, or of a newer version.
    """
    try:
        metadata = json.loads(description)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: {DESCRIPTION} is not JSON: {error}") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ModelFileError(f"{path}: {DESCRIPTION} does not describe an {FORMAT}")
    version = metadata.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ModelFileError(
            f"{path} has format version {version}; this program reads up to "
            f"{FORMAT_VERSION}: upgrade openmm-se3"
        )
    missing = [key for key in REQUIRED if key not in metadata]
    if missing:
        raise ModelFileError(f"{path}: {DESCRIPTION} lacks {missing}")
    if metadata["units"] != UNITS:
        raise ModelFileError(f"{path}: units are {metadata['units']}, expected {UNITS}")
    if not isinstance(metadata["model"], dict):
        raise ModelFileError(f"{path}: 'model' in {DESCRIPTION} is not an object")
    try:
        older = DEFAULTS_OF_VERSION_1 if version < FORMAT_VERSION else {}
        config = from_dict(ModelConfig, {**older, **metadata["model"]}, "model")
        if metadata.get("domain") is not None:
            domain_from_dict(metadata["domain"])
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}") from error
    _check_self_energies(path, config, metadata["self_energies"])
    _check_members(path, config, metadata)
    return RenamedKeys("description", metadata), config


def _check_members(path: Path, config: ModelConfig, metadata: dict[str, Any]) -> None:
    if "members" not in metadata:
        return
    number, own = metadata["members"], metadata.get("member_descriptions")
    if type(number) is not int or number not in MEMBERS:
        raise ModelFileError(
            f"{path}: members is {number!r}; a committee has {MEMBERS[0]} to "
            f"{MEMBERS[-1]}"
        )
    if not isinstance(own, list) or [type(o) for o in own] != [dict] * number:
        raise ModelFileError(
            f"{path}: member_descriptions are not {number} objects, one of each member"
        )
    for description in own:
        if "self_energies" in description:
            _check_self_energies(path, config, description["self_energies"])
    threshold = metadata.get("uncertainty_threshold")
    is_number = isinstance(threshold, float | int) and threshold > 0.0
    if threshold is not None and not is_number:
        raise ModelFileError(
            f"{path}: uncertainty_threshold is {threshold!r}, which is no positive "
            "number (eV/A)"
        )


def _check_self_energies(path: Path, config: ModelConfig, energies: Any) -> None:
    if not isinstance(energies, dict):
        raise ModelFileError(f"{path}: self-energies are not an object")
    lacking = [e for e in config.elements if e not in energies]
    if lacking:
        raise ModelFileError(f"{path}: no self-energies of {lacking}")
    for symbol, energy in energies.items():
        if not isinstance(energy, float | int) or not np.isfinite(energy):
            raise ModelFileError(f"{path}: self-energy of {symbol} is {energy!r}")
