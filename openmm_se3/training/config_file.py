"""The YAML file of a training run."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import yaml

from openmm_se3.config import ModelConfig, from_dict
from openmm_se3.data.load import Source
from openmm_se3.data.splits import SplitConfig
from openmm_se3.renamed_fields import with_new_names
from openmm_se3.training.config import DataConfig, RunConfig, TrainingConfig
from openmm_se3.training.presets import with_preset

MAX_BYTES = 1 << 20  # of a configuration file; usual ones have some hundred


def read_config(path: str | Path) -> RunConfig:
    """Read the YAML file of a run; paths of data files become absolute.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not YAML, or a key or value is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no configuration file {path}")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES} bytes: is it a YAML file?")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    except RecursionError:
        raise ValueError(f"{path}: lists or mappings are nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must have the keys model, data and training")
    try:
        return run_config(values, path.parent)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def run_config(values: dict[str, Any], folder: Path) -> RunConfig:
    """Return a run from plain values.

    Args:
        values: As in the YAML file.
        folder: Where relative paths start.

    Raises:
        ValueError: A key or value is wrong.
    """
    values = dict(values)
    for section, kind in (("model", "ModelConfig"), ("training", "TrainingConfig")):
        if isinstance(given := values.get(section), dict):
            values[section] = with_new_names(kind, given, FutureWarning)
    sections = from_dict(_Sections, with_preset(values), "the configuration")
    training = from_dict(TrainingConfig, sections.training, "training")
    return RunConfig(
        model=from_dict(ModelConfig, sections.model, "model"),
        training=_with_paths(training, folder),
        data=_read_data(sections.data, folder),
    )


@dataclasses.dataclass(frozen=True)
class _Sections:
    model: dict[str, Any]
    data: dict[str, Any]
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    preset: None = None  # its values are in the others by now


@dataclasses.dataclass(frozen=True)
class _Data:
    files: tuple[Any, ...]
    split: dict[str, Any] = dataclasses.field(default_factory=dict)
    self_energies: str | dict[str, Any] = "auto"
    check_units: bool = True


def _read_data(values: dict[str, Any], folder: Path) -> DataConfig:
    """Return the data section; relative paths start at ``folder``."""
    sections = from_dict(_Data, values, "data")
    sources = []
    for entry in sections.files:
        fields = {"path": entry} if isinstance(entry, str) else entry
        if not isinstance(fields, dict):
            raise ValueError(f"data.files: expected a path or a mapping, got {entry!r}")
        source = from_dict(Source, fields, "data.files")
        groups = source.groups
        sources.append(
            dataclasses.replace(
                source,
                path=str((folder / source.path).resolve()),
                groups=None if groups is None else str((folder / groups).resolve()),
            )
        )
    return DataConfig(
        tuple(sources),
        from_dict(SplitConfig, sections.split, "data.split"),
        sections.self_energies,
        sections.check_units,
    )


def _with_paths(training: TrainingConfig, folder: Path) -> TrainingConfig:
    """Return the settings with a path of initial weights that starts at ``folder``."""
    start = training.initial
    if start is None or not (folder / start).exists():
        return training  # nothing, or the name of a shipped model
    return dataclasses.replace(training, initial=str((folder / start).resolve()))


class _Loader(yaml.SafeLoader):
    """YAML in which nothing is hidden: no key twice, of which the last would count.

    Neither has it aliases, which can hold gigabytes in a few lines.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("anchors and aliases are not supported here")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1, where 2e-3 without a point is a string.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)
