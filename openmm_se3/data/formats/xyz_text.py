"""The text of extended XYZ, frame by frame: keys of the comment line and columns.

Each frame is a line with the number of atoms, a comment line with ``key=value`` pairs,
and one row an atom, whose columns ``Properties=NAME:TYPE:COLUMNS:...`` names.  Blank
lines may stand between frames.  Everything else that does not fit is an error with its
line: a frame that is skipped would be missed by nobody.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from openmm_se3.elements import ATOMIC_NUMBERS

MAX_LINE = 1 << 24  # bytes
MIN_ROW = 8  # bytes of the shortest row, "H 0 0 0"
MAX_COLUMNS = 1000
PLAIN = "species:S:1:pos:R:3"
SPECIES, NUMBERS, POSITIONS = (
    ("species", "symbols"),
    ("Z", "numbers"),
    ("pos", "positions"),
)
CELLS = ("cell", "box")  # keys that some programs write instead of Lattice
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"PK\x03\x04", b"\x28\xb5\x2f\xfd")

FORTRAN = re.compile(r"\s*[-+]?[0-9.]+[dD][-+]?[0-9]+\s*$")

_TOKEN = re.compile(
    r"""
    (?P<key> "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | [^\s=]+ )
    (?: \s*=\s*
        (?P<value> "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | \{[^}]*\} | \[[^\]]*\]
                   | \S* )
    )?
    """,
    re.VERBOSE,
)


@dataclasses.dataclass(frozen=True)
class TextFrame:
    """One frame as it stands in the file.

    Attributes:
        line: Line of its number of atoms, from 1.
        numbers: Atomic numbers [n_atoms].
        positions: Positions [n_atoms, 3], in the unit of the file.
        info: Text of each key of the comment line, without quotes.
        columns: Columns of real numbers by name [n_atoms, n_columns].
        box: Lattice vectors as rows [3, 3], in the unit of the file; None without a
            box.
    """

    line: int
    numbers: np.ndarray
    positions: np.ndarray
    info: dict[str, str]
    columns: dict[str, np.ndarray]
    box: np.ndarray | None

    def number(self, key: str) -> float:
        """Return a key of the comment line as a number; NaN if it is not there.

        Raises:
            ValueError: It is not a number.
        """
        text = self.info.get(key, "nan")
        try:
            return real(text)
        except ValueError:
            raise ValueError(
                f"line {self.line + 1}: {key} {text!r} is not a number"
            ) from None


def read_text_frames(path: Path) -> Iterator[TextFrame]:
    """Yield the frames of a file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not extended XYZ, or compressed; names the line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no structure file {path}")
    with open(path, "rb") as file:
        if file.peek(8).startswith(COMPRESSED):
            raise ValueError(f"{path} is compressed; unpack it first")
        lines = _Lines(path, file)
        index = 0
        while (count := lines.next_not_blank()) is not None:
            line = lines.number
            try:
                yield _frame(count, lines)
            except ValueError as error:
                raise ValueError(
                    f"{path}, frame {index} (line {line}): {error}"
                ) from error
            index += 1
    if not index:
        raise ValueError(f"{path} holds no structures")


class _Lines:
    """Lines of a file, counted from 1."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.file = file
        self.number = 0
        self.size = path.stat().st_size

    def next(self) -> str | None:
        """Return the next line without its end; None at the end of the file."""
        content = self.file.readline(MAX_LINE)
        if not content:
            return None
        if len(content) == MAX_LINE:
            raise ValueError(f"line {self.number + 1} is longer than {MAX_LINE} bytes")
        self.number += 1
        text = content.decode("utf-8", errors="replace").rstrip("\r\n")
        return text.removeprefix("\ufeff") if self.number == 1 else text

    def next_not_blank(self) -> str | None:
        """Return the next line that holds anything; None at the end of the file."""
        line = self.next()
        while line is not None and not line.strip():
            line = self.next()
        return line

    def left(self) -> int:
        """Return the bytes behind the last line."""
        return self.size - self.file.tell()


def _frame(count: str, lines: _Lines) -> TextFrame:
    first = lines.number
    if not re.fullmatch(r"\s*[0-9]{1,12}\s*", count, re.ASCII):
        raise ValueError(
            f"expected the number of atoms of a frame, found {count[:60]!r}; is the "
            "number of the frame before right, and is this extended XYZ?"
        )
    n_atoms = int(count)
    if not n_atoms:
        raise ValueError("a frame of no atoms")
    comment = lines.next()
    if comment is None:
        raise ValueError("the file ends after the number of atoms")
    info = parse_comment(comment)
    if (n_atoms - 1) * MIN_ROW > lines.left():
        raise ValueError(
            f"the frame is to have {n_atoms} atoms, more than the {lines.left()} bytes "
            "left in the file can hold"
        )
    layout, n_columns = _parse_properties(_take(info, "Properties"))
    rows = []
    for atom in range(n_atoms):
        row = lines.next()
        if row is None:
            raise ValueError(f"the file ends after {atom} of {n_atoms} atoms")
        values = row.split()
        # Plain XYZ may have more columns, which it does not name.
        if len(values) < n_columns or (
            len(values) > n_columns and layout is not _PLAIN_LAYOUT
        ):
            raise ValueError(
                f"line {lines.number} has {len(values)} columns, expected {n_columns} "
                f"of {n_atoms} atoms: {row[:60]!r}"
            )
        rows.append(values)
    columns = {
        name: _reals(name, rows, start, stop, first)
        for name, (kind, start, stop) in layout.items()
        if kind == "R"
    }
    positions = next((columns.pop(n) for n in POSITIONS if n in columns), None)
    if positions is None or positions.shape[1] != 3:
        raise ValueError("there is no column pos:R:3 with the positions")
    return TextFrame(
        first,
        _atomic_numbers(layout, rows),
        positions,
        info,
        columns,
        _box(info),
    )


def parse_comment(text: str) -> dict[str, str]:
    """Return the ``key=value`` pairs of a comment line; words alone have the value T.

    Values stay text: the name 007 is not the number 7.

    Raises:
        ValueError: A key stands twice, with different values.
    """
    pairs: dict[str, str] = {}
    for match in _TOKEN.finditer(text):
        key = _bare(match["key"])
        value = "T" if match["value"] is None else _bare(match["value"])
        if pairs.setdefault(key, value) != value:
            raise ValueError(
                f"{key} stands twice in the comment line, as {pairs[key]!r} and as "
                f"{value!r}"
            )
    return pairs


def real(text: str) -> float:
    """Return a number, perhaps with an exponent of Fortran (1.5D-03).

    Raises:
        ValueError: It is none.
    """
    return float(
        text.replace("D", "E").replace("d", "e") if FORTRAN.match(text) else text
    )


def _take(info: dict[str, str], name: str) -> str | None:
    """Take a key of the format out of a comment line, however it is capitalized.

    Raises:
        ValueError: It is there in several spellings.
    """
    found = [key for key in info if key.lower() == name.lower()]
    if len(found) > 1:
        raise ValueError(f"{name} is there in several spellings: {found}")
    return info.pop(found[0]) if found else None


def _bare(text: str) -> str:
    if len(text) > 1 and text[0] + text[-1] in ('""', "''", "{}", "[]"):
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


_Layout = dict[str, tuple[str, int, int]]  # type, first and last column of a name


def _parse_properties(text: str | None) -> tuple[_Layout, int]:
    """Return type and place of each column, and how many there are."""
    if text is None:
        return _PLAIN_LAYOUT, 4
    fields = text.split(":")
    layout: _Layout = {}
    start = 0
    for name, kind, width in zip(fields[::3], fields[1::3], fields[2::3], strict=False):
        if (
            kind not in ("R", "I", "S", "L")
            or not re.fullmatch("[0-9]{1,4}", width, re.ASCII)
            or not 1 <= int(width) <= MAX_COLUMNS
            or name in layout
        ):
            raise ValueError(_properties_error(text))
        layout[name] = (kind, start, start + int(width))
        start += int(width)
    if len(fields) % 3 or start > MAX_COLUMNS:
        raise ValueError(_properties_error(text))
    return layout, start


def _properties_error(text: str) -> str:
    return (
        f"Properties={text[:80]!r} is not of the form NAME:TYPE:COLUMNS:..., each name "
        f"once, types R, I, S or L and up to {MAX_COLUMNS} columns, such as {PLAIN}"
    )


_PLAIN_LAYOUT, _ = _parse_properties(PLAIN)


def _reals(
    name: str, rows: list[list[str]], start: int, stop: int, first: int
) -> np.ndarray:
    try:
        return np.array([row[start:stop] for row in rows], dtype=np.float64)
    except ValueError:
        numbers = np.empty((len(rows), stop - start))
        for atom, row in enumerate(rows):
            for place, value in enumerate(row[start:stop]):
                try:
                    numbers[atom, place] = real(value)
                except ValueError:
                    raise ValueError(
                        f"line {first + 2 + atom}: {value[:40]!r} in the column "
                        f"{name!r} is not a number"
                    ) from None
        return numbers


def _atomic_numbers(layout: _Layout, rows: list[list[str]]) -> np.ndarray:
    for name in SPECIES:
        if name in layout:
            place = layout[name][1]
            symbols = [row[place].capitalize() for row in rows]
            unknown = sorted(set(symbols) - set(ATOMIC_NUMBERS))
            if unknown:
                isotopes = "; write H for D and T" if {"D", "T"} & set(unknown) else ""
                raise ValueError(f"no elements from H to Xe: {unknown[:8]}{isotopes}")
            return np.array([ATOMIC_NUMBERS[symbol] for symbol in symbols])
    for name in NUMBERS:
        if name in layout:
            texts = [row[layout[name][1]] for row in rows]
            known = set(map(str, ATOMIC_NUMBERS.values()))
            unknown = sorted(set(texts) - known)
            if unknown:
                raise ValueError(f"no atomic numbers from 1 to 54: {unknown[:8]}")
            return np.array([int(text) for text in texts])
    raise ValueError("there is no column species:S:1 with the elements")


def _box(info: dict[str, str]) -> np.ndarray | None:
    """Return the box of a frame; its keys are taken out of the comment line."""
    lattice, periodic = _take(info, "Lattice"), _take(info, "pbc")
    cell = next((info[key] for key in info if key.lower() in CELLS), "")
    if lattice is None and len(cell.replace(",", " ").split()) in (3, 6, 9):
        raise ValueError(
            f"cell={cell[:80]!r} is not read: a box is nine numbers, the vectors one "
            'after the other, under Lattice="..."'
        )
    words = {"T": True, "TRUE": True, "1": True, "F": False, "FALSE": False, "0": False}
    axes = []
    for word in (periodic or "").replace(",", " ").split():
        if word.upper() not in words:
            raise ValueError(f"pbc={periodic!r} must be three of T and F")
        axes.append(words[word.upper()])
    if len(axes) == 1:
        axes *= 3
    if len(axes) not in (0, 3):
        raise ValueError(f"pbc={periodic!r} must be three of T and F")
    vectors = np.zeros((3, 3))
    if lattice is not None:
        try:
            numbers = [float(word) for word in lattice.replace(",", " ").split()]
        except ValueError:
            numbers = []
        if len(numbers) != 9:
            raise ValueError(f"Lattice={lattice[:80]!r} must be nine numbers")
        vectors = np.array(numbers).reshape(3, 3)
    # Programs write a Lattice of zeros where there is no box.
    if not (axes or vectors.any()) or (axes and not any(axes)):
        return None
    if axes and not all(axes):
        raise ValueError(
            f"periodic along some axes only (pbc={periodic!r}): the network knows free "
            "molecules and boxes; give a slab a box with empty space in it"
        )
    if not vectors.any():
        has = "has only zeros" if lattice is not None else "is missing"
        raise ValueError(
            f'pbc="{periodic}" says that the frame is periodic, but its Lattice {has}; '
            'a free molecule has pbc="F F F"'
        )
    return vectors
