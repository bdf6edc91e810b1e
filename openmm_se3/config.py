"""Configuration objects: the same fields in YAML, checkpoints and exported files."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from openmm_se3.elements import SYMBOLS
from openmm_se3.renamed_fields import FIELDS, accepts_old_names, with_new_names

T = TypeVar("T")

# Metadata of a field that older versions do not know.  ``to_dict`` leaves it out where
# it has its default, so that older versions open what does not need it, and so that
# fingerprints of older runs and models stay the same.
ADDED = {"added": True}

# What a network of a file of format version 1 has where it does not say.
DEFAULTS_OF_VERSION_1 = {"self_interaction": "attentive"}

# Sizes beyond which building the network alone takes minutes or all memory.
LARGEST = {
    "layers": 64,
    "channels": 4096,
    "key_channels": 4096,
    "heads": 256,
    "radial_functions": 1024,
    "radial_width": 4096,
    "self_interaction_width": 4096,
}
MAX_DEGREE = 8


def from_dict(cls: type[T], values: Mapping[str, Any], section: str) -> T:
    """Return a configuration dataclass made from plain values.

    Old names of fields become new ones, see :mod:`openmm_se3.renamed_fields`.  Lists
    become tuples where the field is a tuple, and integers become floats where the
    field is a float, as YAML and JSON do not tell these apart.

    Args:
        cls: The dataclass.
        values: Value by field.
        section: What messages call this part of a file, such as "model".

    Raises:
        ValueError: A key is unknown (the nearest known one is named), a required one is
            missing, or a value has the wrong type.
    """
    if cls.__name__ in FIELDS:
        values = with_new_names(cls.__name__, values)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = (
                f"; did you mean {near[0]!r}?" if near else f"; known: {list(fields)}"
            )
            raise ValueError(f"unknown key {key!r} in {section}{hint}")
    missing = [
        name
        for name, f in fields.items()
        if name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{section} needs {missing}")
    converted = {
        key: _convert(section, key, value, hints[key]) for key, value in values.items()
    }
    return cls(**converted)


def to_dict(config: Any) -> dict[str, Any]:
    """Return the fields of a configuration as plain values, tuples as lists.

    Fields marked with ``ADDED`` are left out where they have their defaults.
    """
    left_out = {
        f.name
        for f in dataclasses.fields(config)
        if f.metadata.get("added") and getattr(config, f.name) == f.default
    }
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(config).items()
        if key not in left_out
    }


def _convert(section: str, key: str, value: Any, hint: Any) -> Any:
    options = [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = list(typing.get_args(hint))
    for option in options:
        kind = typing.get_origin(option) or option
        if kind is Any:
            return value
        if kind is typing.Literal and value in typing.get_args(option):
            return value
        if kind is tuple and isinstance(value, list | tuple):
            (part, *_) = typing.get_args(option)
            return tuple(_convert(section, key, one, part) for one in value)
        if (
            kind is float
            and isinstance(value, int | float)
            and not isinstance(value, bool)
        ):
            return float(value)
        if kind is bool and isinstance(value, bool):
            return value
        if kind is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if kind in (str, dict) and isinstance(value, kind):
            return value
        if kind is types.NoneType and value is None:
            return None
    expected = getattr(hint, "__name__", None) or str(hint).replace("typing.", "")
    if typing.get_origin(hint) is tuple:
        expected = "a list"
    if typing.get_origin(hint) is typing.Literal:
        expected = f"one of {list(typing.get_args(hint))}"
    raise ValueError(f"{section}.{key} must be {expected}, got {value!r}")


@accepts_old_names
@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the shape and the equations of a network.

    Attributes:
        elements: Chemical symbols; the index of an element here is its species.
        cutoff: Distance beyond which atoms do not see each other, A.
        layers: Attention layers.
        channels: Channels C of every degree.
        key_channels: Channels of queries and keys, over all heads.
        heads: Attention heads; divides ``channels`` and ``key_channels``.
        lmax: Highest degree l of hidden features.
        jmax: Highest degree J of the spherical harmonics in the kernels; None allows
            all that equation (2.2) has, up to 2 lmax.
        symmetry: "O(3)" keeps only kernels with even k + l + J, which makes the energy
            of mirror images equal; "SO(3)" has all, and only rotations are exact.
        kernel: "depthwise" (a radial function per path and channel, channels mixed on
            the atoms) or "full" (a radial function per path and pair of channels).
        envelope: "smooth" (everything fades before the cutoff) or "none": the energy
            jumps when a neighbor crosses the cutoff, as in the thesis.
        radial_basis: "bessel" functions of the distance, or "distance" itself.
        radial_functions: Number of Bessel functions.
        radial_width: Width of the radial networks.
        self_interaction: "linear" (a fixed mixing of channels) or "attentive" (2.6,
            2.7), as in the thesis.
        self_interaction_width: Width of the network of (2.6).
        nonlinearity: "gate" (smooth at vanishing features) or "norm" (2.9).
        embedding: "learned" vector per element, or "one-hot".
        force_mode: "conservative" (-dE/dx), "direct" (type-1 outputs), or "both":
            conservative forces are the model's, direct ones estimate their error.
        energy_scale: Atomic energies are the network's outputs times this, eV.
        zbl: Add the repulsion of nuclei (Ziegler, Biersack, Littmark) below bonding
            distances.
        attention: "bounded" (logits A tanh(q.k / (A sqrt(d))) with A = 10) or
            "softmax", which is (2.5) with logits q.k / sqrt(d), as in the thesis; it
            needs ``envelope: none``.
        activation: Activation of the radial networks, of the network of (2.6) and of
            the energy's: "silu", or "relu" as in the thesis.
        readout: "mlp" (a nonlinearity and a network of two layers make atomic energies
            from the last layer's outputs) or "linear": type-0 and type-1 outputs of the
            last layer, summed over channels with weights, are atomic energies and
            direct forces, as in the thesis.
        isolated_atoms: "zero" (what the network gives for an isolated atom is
            subtracted, so that it has exactly its self-energy) or "learned" (nothing is
            subtracted, as in the thesis).
    """

    elements: tuple[str, ...]
    cutoff: float = 6.0
    layers: int = 3
    channels: int = 16
    key_channels: int = 8
    heads: int = 4
    lmax: int = 2
    jmax: int | None = None
    symmetry: typing.Literal["O(3)", "SO(3)"] = "O(3)"
    kernel: typing.Literal["depthwise", "full"] = "depthwise"
    envelope: typing.Literal["smooth", "none"] = "smooth"
    radial_basis: typing.Literal["bessel", "distance"] = "bessel"
    radial_functions: int = 8
    radial_width: int = 32
    self_interaction: typing.Literal["linear", "attentive"] = "linear"
    self_interaction_width: int = 32
    nonlinearity: typing.Literal["gate", "norm"] = "gate"
    embedding: typing.Literal["learned", "one-hot"] = "learned"
    force_mode: typing.Literal["conservative", "direct", "both"] = "conservative"
    energy_scale: float = 1.0
    zbl: bool = True
    attention: typing.Literal["bounded", "softmax"] = dataclasses.field(
        default="bounded", metadata=ADDED
    )
    activation: typing.Literal["silu", "relu"] = dataclasses.field(
        default="silu", metadata=ADDED
    )
    readout: typing.Literal["mlp", "linear"] = dataclasses.field(
        default="mlp", metadata=ADDED
    )
    isolated_atoms: typing.Literal["zero", "learned"] = dataclasses.field(
        default="zero", metadata=ADDED
    )

    def __post_init__(self) -> None:
        """Check values that would fail later with a message that names no field.

        Raises:
            ValueError: A value is out of range or does not go with another.
        """
        unknown = [e for e in self.elements if e not in SYMBOLS]
        if not self.elements or unknown or len(set(self.elements)) < len(self.elements):
            raise ValueError(
                "elements must be different chemical symbols such as [H, O], "
                f"got {list(self.elements)}"
            )
        for name, most in LARGEST.items():
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(
                    f"{name} must be from 1 to {most}, got {getattr(self, name)}"
                )
        if not 0.0 < self.cutoff < 100.0:
            raise ValueError(f"cutoff must be in A and positive, got {self.cutoff}")
        if not 0.0 < self.energy_scale < float("inf"):
            raise ValueError(f"energy_scale must be positive, got {self.energy_scale}")
        if self.lmax < 0 or (self.jmax is not None and self.jmax < self.lmax):
            raise ValueError(
                f"need 0 <= lmax <= jmax, got lmax={self.lmax}, jmax={self.jmax}"
            )
        if self.attention == "softmax" and self.envelope == "smooth":
            raise ValueError(
                "attention: softmax needs envelope: none; its weights add up to one, "
                "so that one neighbor could not fade smoothly at the cutoff"
            )
        if self.lmax > MAX_DEGREE:
            raise ValueError(f"lmax must be at most {MAX_DEGREE}, got {self.lmax}")
        if self.force_mode != "conservative" and self.lmax < 1:
            raise ValueError("direct forces are vectors: they need lmax of at least 1")
        for name in ("channels", "key_channels"):
            if getattr(self, name) % self.heads:
                raise ValueError(
                    f"{name}={getattr(self, name)} must be a multiple of "
                    f"heads={self.heads}"
                )


SHOWN_DIGITS = 12  # of a hash


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return one line for each value in which two nested dictionaries differ.

    A value that is absent is the same as None: older checkpoints lack newer settings.

    Args:
        before: What a checkpoint holds.
        now: The same of the run that is asked for.
    """
    lines = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += [f"{key}.{line}" for line in differences(old, new)]
        elif old != new:
            was, is_now = (_shown(key, value) for value in (old, new))
            lines.append(f"{key}: {was} in the checkpoint, {is_now} now")
    return lines


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "not given"
    return str(value)[: SHOWN_DIGITS if key.endswith("sha256") else None]
