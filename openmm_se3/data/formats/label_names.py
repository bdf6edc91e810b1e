"""Which of the labels in an extended XYZ file are meant: energy and forces of a method.

Files often hold labels of two methods, such as the reference and an older potential:
``energy``/``forces`` beside ``REF_energy``/``REF_forces``.  A name is taken apart into
words; what is left without "energy" or "forces" is the method.  Labels are taken
without being named only where one method has them, and never the energy of one method
with the forces of another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from openmm_se3.data.formats.xyz_text import TextFrame, real

ENERGY_WORDS = {"energy", "energies"}
FORCES_WORDS = {"force", "forces", "gradient", "gradients", "grad"}
SAME_METHOD = {"total", "tot", "potential", "pot"}  # say nothing of the method
# Words of quantities that are no labels: parts, differences, errors, weights.
OTHER = {
    *("free", "kinetic", "zero", "zpe", "per", "atom", "atoms", "mean", "shift"),
    *("dispersion", "disp", "vdw", "correction", "repulsion", "nuclear"),
    *("formation", "atomization", "binding", "interaction", "cohesive", "hull"),
    *("std", "stdev", "sigma", "var", "variance", "error", "uncertainty", "rmse"),
    *("weight", "weights", "mask", "unit", "units", "external", "delta", "diff"),
}
GRADIENT_WORDS = {"gradient", "gradients", "grad"}
_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z0-9]+")
ENERGY_TOLERANCE, FORCES_TOLERANCE = 1e-6, 1e-5  # in the file's units
Method = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Labels:
    """Names of the labels of a file.

    Attributes:
        energy: Keys of the energy, of one method; the first that a frame has counts.
        forces: Columns of the forces; the same.
        note: What the user should know about the choice; empty if there is nothing.
    """

    energy: tuple[str, ...]
    forces: tuple[str, ...]
    note: str = ""


def choose_labels(
    frames: Sequence[TextFrame], energy_key: str | None, forces_key: str | None
) -> Labels:
    """Return the names of the labels to read.

    Args:
        frames: All frames of a file.
        energy_key: Key that the user named; None finds it.
        forces_key: Column that the user named; None finds it.

    Raises:
        ValueError: A key is not there, there are no labels, or labels of several
            methods.
    """
    infos = _names(frame.info for frame in frames)
    columns = _names(frame.columns for frame in frames)
    if energy_key is not None and energy_key not in infos:
        raise ValueError(f"no energy under {energy_key!r}; there: {infos}")
    if forces_key is not None and forces_key not in columns:
        raise ValueError(f"no forces under {forces_key!r}; there: {columns}")
    numbers = [name for name in infos if _is_number(frames, name)]
    energies = _merged(frames, _by_method(numbers, ENERGY_WORDS, "e"), _same_energies)
    vectors = [name for name in columns if _is_vector(frames, name)]
    forces = _merged(frames, _by_method(vectors, FORCES_WORDS, "f"), _same_forces)
    if energy_key is None and forces_key is None:
        return _only_ones(energies, forces, infos, columns)
    if forces_key is None:
        assert energy_key is not None
        names, note = _partner(energy_key, energies, forces, "forces")
        return Labels((energy_key,), names, note)
    if energy_key is None:
        names, note = _partner(forces_key, forces, energies, "energy")
        return Labels(names, (forces_key,), note)
    return Labels((energy_key,), (forces_key,))


def is_gradient(name: str) -> bool:
    """Tell whether a column is called a gradient, which has the other sign."""
    return not GRADIENT_WORDS.isdisjoint(_words(name))


_Groups = list[tuple[set[Method], tuple[str, ...]]]  # methods of equal labels, names


def _only_ones(
    energies: _Groups, forces: _Groups, infos: list[str], columns: list[str]
) -> Labels:
    """Return the labels of the only method there is."""
    if not energies and not forces:
        raise ValueError(
            f"neither an energy (keys there: {infos}) nor forces (columns: {columns}); "
            "name them with energy_key and forces_key"
        )
    if len(energies) > 1 or len(forces) > 1:
        raise ValueError(
            f"labels of several methods: energies {_listed(energies)} and forces "
            f"{_listed(forces)}; choose with energy_key and forces_key (--energy-key, "
            "--forces-key)"
        )
    if energies and forces and energies[0][0].isdisjoint(forces[0][0]):
        raise ValueError(
            f"the energies {_listed(energies)} and the forces {_listed(forces)} have "
            "the names of different methods; if they belong together, name both with "
            "energy_key and forces_key (--energy-key, --forces-key)"
        )
    note = ""
    if not energies:
        note = f"no energies: none of the keys {infos} is one; energy_key names it"
    if not forces:
        note = f"no forces: none of the columns {columns} is one; forces_key names it"
    return Labels(
        energies[0][1] if energies else (), forces[0][1] if forces else (), note
    )


def _partner(
    key: str, own: _Groups, others: _Groups, what: str
) -> tuple[tuple[str, ...], str]:
    """Return the other label that goes with a named one, and a note if there is none.

    It is that of the same method, or the only one if no other name here claims it.
    """
    words = ENERGY_WORDS if what == "forces" else FORCES_WORDS
    methods = {_method(key, words)}.union(*(m for m, names in own if key in names))
    claimed: set[Method] = set().union(*(m for m, names in own if key not in names))
    fitting = [names for group, names in others if group & methods]
    if not fitting and len(others) == 1 and others[0][0].isdisjoint(claimed):
        fitting = [others[0][1]]
    if len(fitting) == 1:
        return fitting[0], ""
    note = ""
    if others:
        option = f"{what}_key"
        note = (
            f"{_listed(others)} are not read as the {what} that belong to {key!r}; "
            f"{option} (--{what}-key) names some"
        )
    return (), note


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(name)]


def _method(name: str, kind: Iterable[str]) -> Method:
    return tuple(w for w in _words(name) if w not in {*kind, *SAME_METHOD})


def _by_method(
    names: Iterable[str], kind: set[str], letter: str
) -> dict[Method, tuple[str, ...]]:
    """Return the names of a kind of label by method.

    ``E_dft`` and ``F_dft`` are labels, ``E`` alone may be anything.
    """
    found: dict[Method, tuple[str, ...]] = {}
    for name in names:
        words = _words(name)
        short = len(words) == 2 and letter in words
        if (short or not kind.isdisjoint(words)) and OTHER.isdisjoint(words):
            method = _method(name, {*kind, letter} if short else kind)
            found[method] = (*found.get(method, ()), name)
    return found


def _merged(
    frames: Sequence[TextFrame],
    found: dict[Method, tuple[str, ...]],
    equal: Callable[[TextFrame, str, str], bool],
) -> _Groups:
    """Return groups of names; the values of one group are the same in every frame.

    Two names of one method may take turns between frames.
    """
    groups: _Groups = []
    for method, names in found.items():
        for name in names:
            for place, (methods, members) in enumerate(groups):
                first = members[0]
                both = [f for f in frames if _has(f, first) and _has(f, name)]
                if (both or method in methods) and all(
                    equal(frame, first, name) for frame in both
                ):
                    groups[place] = (methods | {method}, (*members, name))
                    break
            else:
                groups.append(({method}, (name,)))
    return groups


def _has(frame: TextFrame, name: str) -> bool:
    return name in frame.info or name in frame.columns


def _same_energies(frame: TextFrame, first: str, second: str) -> bool:
    a, b = frame.number(first), frame.number(second)
    return bool(np.isclose(a, b, rtol=1e-10, atol=ENERGY_TOLERANCE))


def _same_forces(frame: TextFrame, first: str, second: str) -> bool:
    a, b = frame.columns[first], frame.columns[second]
    sign = -1.0 if is_gradient(first) != is_gradient(second) else 1.0
    return a.shape == b.shape and np.allclose(
        a, sign * b, rtol=0.0, atol=FORCES_TOLERANCE
    )


def _is_number(frames: Sequence[TextFrame], key: str) -> bool:
    """Tell whether any frame has a number there; in the others it is an error."""
    for frame in frames:
        with contextlib.suppress(ValueError):
            if key in frame.info:
                real(frame.info[key])
                return True
    return False


def _is_vector(frames: Sequence[TextFrame], name: str) -> bool:
    first = next(f.columns[name] for f in frames if name in f.columns)
    return first.shape[1] == 3


def _names(parts: Iterable[Iterable[str]]) -> list[str]:
    return sorted({name for part in parts for name in part})


def _listed(groups: _Groups) -> str:
    return str([name for _, names in groups for name in names])
