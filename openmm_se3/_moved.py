"""Names that modules had before 0.2, for one release.

Importing an old name warns and gives the module of the new name, the same object.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

PACKAGE = __package__
MOVED = {
    "analysis.hydrogen_bonds": "analysis.geometry",
    "benchmark.memory": "benchmark.machine",
    "benchmark.model": "benchmark.bench",
    "box": "geometry",
    "compiled.compiler": "compiled.library",
    "compiled.generate": "compiled.codegen",
    "compiled.pack": "compiled.weights",
    "differences": "config",
    "doctor.evidence": "doctor.collect",
    "force.ase": "ase",
    "force.fitness": "force.system_checks",
    "force.names": "force.system_checks",
    "graph": "neighbors",
    "integrators": "verlet",
    "lock": "files",
    "model": "nn",
    "model.attention": "nn.attention",
    "model.kernel": "nn.kernel",
    "model.layers": "nn.layers",
    "model.products": "nn.kernel",
    "model.radial": "nn.radial",
    "model.transformer": "nn.transformer",
    "model.wall": "nn.zbl",
    "modelfile": "model_file",
    "plugin": "force.plugin",
    "reference": "data",
    "reference.dataset": "data.dataset",
    "reference.dft": "data.labeling.dft",
    "reference.executor": "data.labeling.executors",
    "reference.frames": "data.frames",
    "reference.hdf5": "data.formats.hdf5",
    "reference.inspection": "data.checks.summary",
    "reference.journal": "data.labeling.journal",
    "reference.labelling": "data.labeling.label",
    "reference.level": "data.level_of_theory",
    "reference.plausibility": "data.checks.units",
    "reference.provenance": "data.labeling.provenance",
    "reference.readers": "data.formats",
    "reference.readers.conformers": "data.formats.ani",
    "reference.readers.deepmd": "data.formats.deepmd",
    "reference.readers.extxyz": "data.formats.extxyz",
    "reference.resemblance": "data.checks.near_duplicates",
    "reference.safe_hdf5": "data.formats.safe_hdf5",
    "reference.self_energies": "data.self_energies",
    "reference.sources": "data.load",
    "reference.splits": "data.splits",
    "reference.water_sampler": "data.labeling.water_sampler",
    "rotation": "geometry",
    "simulation.contacts": "geometry",
    "simulation.identity": "simulation.checkpoint",
    "torchscript.engine": "implementation",
    "training.data": "training.batches",
    "training.identity": "training.checkpoint",
    "training.memory": "malloc",
    "training.settings": "training.config",
    "training.module": "training.step",
    "training.tensorboard": "training.progress",
    "training.trainer": "training.start",
    "triton.engine": "triton.availability",
    "validation.battery": "validation.validate",
    "validation.drift": "validation.dynamics",
    "validation.network": "validation.structures",
}


class MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules by their old names."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Return how to load a module of an old name; None for any other."""
        package, _, name = fullname.partition(".")
        if package != PACKAGE or name not in MOVED:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of the new name in the place of the old one."""
        old = module.__name__
        new = f"{PACKAGE}.{MOVED[old.partition('.')[2]]}"
        warnings.warn(
            f"{old} is {new} now; the old name goes with the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        sys.modules[old] = importlib.import_module(new)


def warn_renamed(old: str, new: str) -> None:
    """Warn that a function or an argument has another name."""
    warnings.warn(
        f"{old} is {new} now; the old name goes with the next release",
        DeprecationWarning,
        stacklevel=3,
    )


def renamed_argument(old: str, new: str) -> Callable[[F], F]:
    """Let a function take a keyword argument by its old name, with a warning."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def renaming(*args: Any, **values: Any) -> Any:
            if old in values:
                warn_renamed(f"the argument {old}", new)
                values[new] = values.pop(old)
            return function(*args, **values)

        return cast(F, renaming)

    return decorate


def renamed_attribute(old: str, new: str) -> Any:
    """Return a property that is an attribute or a method by its old name.

    Args:
        old: The old name, of class and attribute.
        new: The new name of the attribute.
    """

    def value(self: Any) -> Any:
        warn_renamed(old, new)
        return getattr(self, new)

    return property(value)


def renamed_names(module: str, new_names: dict[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a module whose names were changed.

    Args:
        module: Name of the module.
        new_names: New name by old name.
    """

    def getattr_of_module(name: str) -> Any:
        if name not in new_names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn_renamed(f"{module}.{name}", new_names[name])
        return getattr(importlib.import_module(module), new_names[name])

    return getattr_of_module


def install() -> None:
    """Let old names be imported."""
    # Before the finder of files: it would load a module a second time by the path of
    # its package's new folder.
    sys.meta_path.insert(0, MovedModules())
