"""The table of elements against that of ASE, which has the same source."""

from __future__ import annotations

import ase.data
import pytest

from openmm_se3.elements import (
    ATOMIC_NUMBERS,
    COVALENT_RADII,
    SYMBOLS,
    numbers_of,
    symbols_of,
)


def test_symbols_and_covalent_radii_are_those_of_ase() -> None:
    assert list(SYMBOLS) == ase.data.chemical_symbols[1 : len(SYMBOLS) + 1]
    for symbol in SYMBOLS:
        number = ase.data.atomic_numbers[symbol]
        assert ATOMIC_NUMBERS[symbol] == number
        radius = ase.data.covalent_radii[number]
        assert COVALENT_RADII[symbol] == pytest.approx(radius), symbol


def test_symbols_and_numbers_are_inverse() -> None:
    numbers = list(range(1, len(SYMBOLS) + 1))
    assert numbers_of(symbols_of(numbers)) == numbers
