"""Atoms as the input calls them."""

from __future__ import annotations

import re

from openmm_se3.active_learning.structures import System

ATOM = re.compile(r"([A-Za-z]{0,2})(\d+)")


def find_atom(text: str, system: System) -> int:
    """Return the index of an atom.

    Args:
        text: Its name in a PDB file, its element and its number in the input from 1
            ("H9"), or the number alone.
        system: The molecule.

    Raises:
        ValueError: There is no such atom, or it is of another element.
    """
    named = [i for i, name in enumerate(system.names) if name == text]
    if len(named) == 1:
        return named[0]
    listed = f"the atoms of the input are {' '.join(_listed(system))}"
    if named:
        raise ValueError(
            f"{len(named)} atoms are called {text}; name it by its number: {listed}"
        )
    match = ATOM.fullmatch(text)
    if match is None or int(match[2]) not in system.places:
        raise ValueError(f"there is no atom {text!r}: {listed}")
    index = system.places.index(int(match[2]))
    symbol = system.symbols[index]
    if match[1] and match[1].capitalize() != symbol:
        raise ValueError(
            f"atom {match[2]} of the input is {symbol}, not {match[1]}: {listed}"
        )
    return index


def _listed(system: System) -> list[str]:
    order = sorted(range(len(system.names)), key=lambda i: system.places[i])
    return [system.names[i] for i in order]
