"""Chemical elements: symbols, atomic numbers, covalent radii.

Radii: Cordero et al. 2008, https://doi.org/10.1039/b801115j, table 2 (carbon as sp3,
Mn, Fe and Co in low spin).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

_TABLE = """
H 0.31  He 0.28 Li 1.28 Be 0.96 B 0.84  C 0.76  N 0.71  O 0.66  F 0.57  Ne 0.58
Na 1.66 Mg 1.41 Al 1.21 Si 1.11 P 1.07  S 1.05  Cl 1.02 Ar 1.06 K 2.03  Ca 1.76
Sc 1.70 Ti 1.60 V 1.53  Cr 1.39 Mn 1.39 Fe 1.32 Co 1.26 Ni 1.24 Cu 1.32 Zn 1.22
Ga 1.22 Ge 1.20 As 1.19 Se 1.20 Br 1.20 Kr 1.16 Rb 2.20 Sr 1.95 Y 1.90  Zr 1.75
Nb 1.64 Mo 1.54 Tc 1.47 Ru 1.46 Rh 1.42 Pd 1.39 Ag 1.45 Cd 1.44 In 1.42 Sn 1.39
Sb 1.39 Te 1.38 I 1.39  Xe 1.40
""".split()

SYMBOLS: tuple[str, ...] = tuple(_TABLE[::2])  # H is SYMBOLS[0]
ATOMIC_NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS, start=1)}
COVALENT_RADII = {  # A
    symbol: float(radius) for symbol, radius in zip(SYMBOLS, _TABLE[1::2], strict=True)
}


def symbols_of(numbers: Iterable[int]) -> list[str]:
    """Return chemical symbols for atomic numbers.

    Raises:
        ValueError: A number is that of no element of the table.
    """
    numbers = [int(number) for number in numbers]
    unknown = sorted({z for z in numbers if not 1 <= z <= len(SYMBOLS)})
    if unknown:
        raise ValueError(
            f"atomic numbers {unknown}: elements 1 ({SYMBOLS[0]}) to {len(SYMBOLS)} "
            f"({SYMBOLS[-1]}) are known"
        )
    return [SYMBOLS[z - 1] for z in numbers]


def numbers_of(symbols: Iterable[str]) -> list[int]:
    """Return atomic numbers for chemical symbols.

    Raises:
        ValueError: A symbol is that of no element of the table.
    """
    symbols = list(symbols)
    unknown = sorted({symbol for symbol in symbols if symbol not in ATOMIC_NUMBERS})
    if unknown:
        raise ValueError(
            f"{unknown} are no symbols of elements from {SYMBOLS[0]} to {SYMBOLS[-1]}"
        )
    return [ATOMIC_NUMBERS[symbol] for symbol in symbols]


def hill_formula(symbols: Iterable[str]) -> str:
    """Return a formula in Hill's order, such as C2H6O: carbon, hydrogen, the others."""
    counts = Counter(symbols)
    first = ("C", "H") if "C" in counts else ()
    order = [s for s in first if s in counts]
    order += sorted(s for s in counts if s not in first)
    return "".join(f"{s}{counts[s] if counts[s] > 1 else ''}" for s in order)


def chemical_symbol(element: Any) -> str:
    """Return the symbol of an element of OpenMM or MDTraj, of deuterium "H".

    Isotopes differ in mass only, which is no input of a model.
    """
    number = int(element.atomic_number)
    known = 1 <= number <= len(SYMBOLS)
    return SYMBOLS[number - 1] if known else str(element.symbol)
