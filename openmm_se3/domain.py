"""What a model was trained on, by composition: the molecules that it knows.

A model's description holds it as ``domain``, in one of two forms:

    {"kind": "compositions", "molecules": ["H2O"]}
    {"kind": "valences", "bonds": ["C-H", "C-O"], "neighbors": {"C": [3, 4], ...},
     "odd_electrons": false}

The first lists every molecule of the training data.  The second is for data of too many
molecules to list: pairs of elements that are bonded, how many bonded neighbors an atom
of each element has, and whether neutral molecules have an odd number of electrons.  A
molecule that has, and none of the data does, is a radical or an ion.  A description
without a domain says nothing.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from openmm_se3.elements import ATOMIC_NUMBERS
from openmm_se3.molecules import molecules_by_bonds

MOST_MOLECULES = 100  # of different composition that are listed
COUNT = re.compile(r"([A-Z][a-z]?)(\d*)")


class OutsideDomainWarning(UserWarning):
    """Atoms are outside of a model's training data by their composition."""


@dataclasses.dataclass(frozen=True)
class Compositions:
    """The molecules of the training data.

    Attributes:
        molecules: Hill formulas, such as "H2O".
    """

    molecules: tuple[str, ...]
    kind: Literal["compositions"] = "compositions"

    def fault(
        self, symbols: Sequence[str], bonds: np.ndarray, complete: bool
    ) -> str | None:
        """Return what is outside; see :func:`outside_domain`."""
        bonded = np.zeros(len(symbols), dtype=bool)
        bonded[bonds.ravel()] = True
        for atoms in molecules_by_bonds(len(symbols), bonds):
            if complete or bonded[atoms[0]]:
                found = formula([symbols[atom] for atom in atoms])
                if found not in self.molecules:
                    return (
                        f"{found} (atom {atoms[0]}) is no molecule of its training "
                        f"data, which has {', '.join(self.molecules)}"
                    )
        rest = [s for s, known in zip(symbols, bonded, strict=True) if not known]
        if not complete and rest and not self._sums_to(rest):
            return (
                f"atoms that sum to {formula(rest)} are not made of the molecules of "
                f"its training data, {', '.join(self.molecules)}"
            )
        return None

    def _sums_to(self, symbols: list[str]) -> bool:
        """Tell whether atoms without bonds can be whole molecules of the data."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        parts = [counts(molecule) for molecule in self.molecules]
        total = Counter(symbols)
        elements = sorted(set(total).union(*parts))
        matrix = np.array([[part[e] for part in parts] for e in elements])
        wanted = np.array([total[e] for e in elements])
        result = milp(
            np.zeros(len(parts)),
            integrality=np.ones(len(parts)),
            bounds=Bounds(0, np.inf),
            constraints=LinearConstraint(matrix, wanted, wanted),
        )
        return bool(result.success)


@dataclasses.dataclass(frozen=True)
class Valences:
    """The bonds of the training data.

    Attributes:
        bonds: Pairs of bonded elements in alphabetical order, such as "C-H".
        neighbors: Numbers of bonded neighbors of an atom, by element.
        odd_electrons: Molecules may have an odd number of electrons when neutral.
    """

    bonds: tuple[str, ...]
    neighbors: dict[str, tuple[int, ...]]
    odd_electrons: bool = True
    kind: Literal["valences"] = "valences"

    def fault(
        self, symbols: Sequence[str], bonds: np.ndarray, complete: bool
    ) -> str | None:
        """Return what is outside; see :func:`outside_domain`."""
        for first, second in bonds:
            pair = bond_name(symbols[first], symbols[second])
            if pair not in self.bonds:
                return (
                    f"atoms {first} and {second} are bonded, {pair}, which no atoms of "
                    f"its training data are; it has {', '.join(self.bonds)}"
                )
        numbers = np.bincount(bonds.ravel(), minlength=len(symbols))
        for atom, (symbol, number) in enumerate(zip(symbols, numbers, strict=True)):
            known = self.neighbors.get(symbol, ())
            # A topology may have no bonds at all.
            if number not in known and (complete or len(bonds)):
                return (
                    f"atom {atom} ({symbol}) has {number} bonded neighbors, in its "
                    f"training data {' or '.join(map(str, known)) or 'there is none'}"
                )
        return None if self.odd_electrons else self._odd(symbols, bonds, complete)

    @staticmethod
    def _odd(symbols: Sequence[str], bonds: np.ndarray, complete: bool) -> str | None:
        """Return the first molecule with an odd number of electrons, or None."""
        numbers = np.array([ATOMIC_NUMBERS[symbol] for symbol in symbols])
        if len(symbols) > 1 and not len(bonds) and numbers.sum() % 2:
            return (
                f"{formula(symbols)} has an odd number of electrons, {numbers.sum()}: "
                "a radical, or an ion, and its training data have neither"
            )
        for atoms in molecules_by_bonds(len(symbols), bonds):
            # Of a topology without its bonds nothing is known.
            known = complete or len(atoms) > 1
            if known and len(symbols) > 1 and numbers[atoms].sum() % 2:
                return (
                    f"{formula([symbols[atom] for atom in atoms])} (atom {atoms[0]}) "
                    "has an odd number of electrons: a radical, or an ion, and its "
                    "training data have neither"
                )
        return None


Domain = Compositions | Valences


def domain_from_dict(values: Any) -> Domain:
    """Return the domain that a description holds.

    Raises:
        ValueError: It is none, or of a kind that this version does not know.
    """
    try:
        if values["kind"] == "compositions":
            molecules = tuple(
                formula(list(counts(m).elements())) for m in values["molecules"]
            )
            if not molecules:
                raise ValueError("no molecules")
            return Compositions(molecules)
        if values["kind"] == "valences":
            return Valences(
                tuple(bond_name(*pair.split("-")) for pair in values["bonds"]),
                {
                    symbol: tuple(int(n) for n in numbers)
                    for symbol, numbers in values["neighbors"].items()
                },
                bool(values.get("odd_electrons", True)),
            )
        raise ValueError(f"its kind is {values['kind']!r}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "domain must be {'kind': 'compositions', 'molecules': [...]} or "
            "{'kind': 'valences', 'bonds': [...], 'neighbors': {...}}: "
            f"{type(error).__name__}: {error}"
        ) from error


def domain_to_dict(domain: Domain) -> dict[str, Any]:
    """Return a domain as plain values for a description."""
    values = json.loads(json.dumps(dataclasses.asdict(domain)))
    return {"kind": domain.kind, **values}


def domain_of(molecules: set[str], bonds: Valences) -> Domain:
    """Return the domain of data: its molecules, or if they are many its bonds."""
    if len(molecules) <= MOST_MOLECULES:
        return Compositions(tuple(sorted(molecules)))
    return bonds


def outside_domain(
    domain: Domain | None,
    symbols: Sequence[str],
    bonds: np.ndarray,
    complete: bool = False,
) -> str | None:
    """Return what is outside of a model's domain, as part of a sentence, or None.

    A single atom is inside: its energy is its self-energy.

    Args:
        domain: The domain; None knows nothing and has nothing outside.
        symbols: Chemical symbols [n_atoms].
        bonds: Pairs of bonded atoms [n_bonds, 2].
        complete: All bonds are known.  Otherwise an atom without one may be bonded.
    """
    if domain is None or len(symbols) < 2:
        return None
    return domain.fault(symbols, np.asarray(bonds, dtype=int).reshape(-1, 2), complete)


def formula(symbols: Sequence[str]) -> str:
    """Return the Hill formula of atoms, such as "C2H6O"."""
    number = Counter(symbols)
    first = [e for e in ("C", "H") if "C" in number and e in number]
    order = first + sorted(set(number) - set(first))
    return "".join(f"{e}{number[e] if number[e] > 1 else ''}" for e in order)


def counts(text: str) -> Counter[str]:
    """Return the numbers of atoms in a formula.

    Raises:
        ValueError: It is no formula.
    """
    found = COUNT.findall(text)
    known = all(symbol in ATOMIC_NUMBERS for symbol, _ in found)
    if not known or not text or "".join(s + n for s, n in found) != text:
        raise ValueError(f"{text!r} is no formula")
    number: Counter[str] = Counter()
    for symbol, n in found:
        number[symbol] += int(n or 1)
    return number


def bond_name(first: str, second: str) -> str:
    """Return a pair of elements in alphabetical order, such as "C-H"."""
    return "-".join(sorted((first, second)))
