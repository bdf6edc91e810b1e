"""Fields of configurations that had other names before 0.2.

Files written then keep opening: YAML files and Python calls with a warning that names
the new field, checkpoints and model files without one.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Field:
    """New name of a field, and new values by old ones where these changed too."""

    name: str
    values: tuple[tuple[Any, Any], ...] = ()

    def new_value(self, old: Any) -> Any:
        """Return the new value for an old one; others stay, to be refused by name."""
        return next((new for was, new in self.values if was is old), old)

    def old_value(self, new: Any) -> Any:
        """Return the old value for a new one."""
        return next((was for was, is_now in self.values if is_now == new), new)


# By name of the dataclass and of the old field.
FIELDS = {
    "ForceSettings": {"engine": Field("implementation")},
    "ModelConfig": {
        "mirror": Field("symmetry", ((True, "O(3)"), (False, "SO(3)"))),
        "wall": Field("zbl"),
    },
    "ModelRunOptions": {"engine": Field("implementation")},
    "TrainingConfig": {
        "average_decay": Field("ema_decay"),
        "engine": Field("implementation"),
        "product_rate": Field("product_lr_scale"),
    },
    "WaterRunOptions": {"engine": Field("implementation")},
    # Not dataclasses: the description of a model, and where a run computed.
    "description": {"licence": Field("license")},
    "environment": {"engine": Field("implementation")},
}


def with_new_names(
    kind: str, values: Mapping[str, Any], warning: type[Warning] | None = None
) -> dict[str, Any]:
    """Return plain values with the new names of fields.

    Where both names are given the old one counts: it was given by hand.

    Args:
        kind: Name of the dataclass.
        values: Value by field.
        warning: Category of the warning of an old name; None for no warning.
    """
    found = dict(values)
    for old, field in FIELDS[kind].items():
        if old in found:
            found[field.name] = field.new_value(found.pop(old))
            if warning is not None:
                warnings.warn(
                    f"{old} is called {field.name} now, here "
                    f"{field.name}: {found[field.name]}; the old name goes with the "
                    "next release",
                    warning,
                    stacklevel=3,
                )
    return found


def with_old_names(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain values with the old names, as older versions fingerprint them."""
    found = dict(values)
    for old, field in FIELDS[kind].items():
        found[old] = field.old_value(found.pop(field.name))
    return found


class RenamedKeys(dict[str, Any]):
    """Plain values whose old keys give them too, with a warning.

    Args:
        kind: Name of the values in :data:`FIELDS`.
        values: Value by key, by the old or the new one.
    """

    def __init__(self, kind: str, values: Mapping[str, Any]) -> None:
        super().__init__(with_new_names(kind, values))
        self._kind = kind

    def __missing__(self, key: str) -> Any:
        """Return the value of an old key."""
        field = FIELDS[self._kind].get(key)
        if field is None or field.name not in self:
            raise KeyError(key)
        warnings.warn(
            f"{key!r} of a {self._kind} is {field.name!r} now; the old name goes with "
            "the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        return self[field.name]


def accepts_old_names(cls: type[T]) -> type[T]:
    """Let a dataclass be made with, and asked for, its old fields, with a warning."""
    kind, new_init = cls.__name__, cls.__init__

    @functools.wraps(new_init)
    def init(self: T, *args: Any, **values: Any) -> None:
        new_init(self, *args, **with_new_names(kind, values, DeprecationWarning))

    def old_property(old: str, field: Field) -> property:
        def value(self: T) -> Any:
            warnings.warn(
                f"{kind}.{old} is {kind}.{field.name} now; the old name goes with the "
                "next release",
                DeprecationWarning,
                stacklevel=2,
            )
            return field.old_value(getattr(self, field.name))

        return property(value)

    setattr(cls, "__init__", init)  # noqa: B010  (mypy refuses the assignment)
    for old, field in FIELDS[kind].items():
        setattr(cls, old, old_property(old, field))
    return cls
