"""The text of a PDB or PDBx/mmCIF file: decoded, its rows of atoms looked at."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

ATOM_ROWS = ("ATOM", "HETATM")
INVISIBLE = "\ufeff\u200b\u00a0 \t"  # characters that hide the name of a record


def read_text(path: Path) -> str:
    """Return the text of a file without the byte-order mark that editors may add."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    return content.decode("utf-8-sig", errors="replace")


def refuse_unread(path: Path, text: str, n_atoms: int) -> None:
    """Refuse a file of which the reader has left out atoms.

    Args:
        path: The file, for the message.
        text: Its content.
        n_atoms: Number of atoms that were read.

    Raises:
        ValueError: There are more rows of atoms, or models of other sizes.
    """
    models = list(_models(text))
    rows = models[0] if models else []
    if len(rows) != n_atoms:
        odd = [row for row in rows if not row.startswith(("ATOM  ", "HETATM"))]
        example = f", such as {' '.join(odd[0].split())!r}" if odd else ""
        raise ValueError(
            f"{path} has {len(rows)} rows of atoms, and {n_atoms} atoms could be read: "
            f"rows must begin with 'ATOM  ' or 'HETATM'{example}, and the atoms of a "
            "residue must have its name and names of their own"
        )
    for number, other in enumerate(models[1:], start=2):
        if len(other) != len(rows):
            raise ValueError(
                f"{path} has {len(rows)} atoms in its first model and {len(other)} in "
                f"model {number}: keep one of them, without MODEL and ENDMDL"
            )


def refuse_alternates(path: Path, text: str) -> None:
    """Refuse a structure in which some atoms stand in two places.

    Raises:
        ValueError: There are alternate locations; names one.
    """
    first: dict[str, str] = {}  # the first row of each location
    for name, row in _alternates(path, text):
        first.setdefault(name, row)
    if len(first) > 1:
        row = " ".join(first[sorted(first)[1]].split())
        raise ValueError(
            f"{path} gives alternate locations ({', '.join(sorted(first))}) of some "
            f"atoms, such as {row!r}: keep one of each"
        )


def _alternates(path: Path, text: str) -> Iterator[tuple[str, str]]:
    """Yield the alternate location and the row of each atom that has one."""
    columns = columns_of(text)
    if columns and "label_alt_id" not in columns:
        return
    for line in text.splitlines():
        if line.startswith(ATOM_ROWS):
            place = columns.get("label_alt_id")
            if place is None:
                name = line[16:17].strip()
            else:
                words = line.split()
                if len(words) < len(columns):
                    raise ValueError(
                        f"{path}: a row has {len(words)} of {len(columns)} columns: "
                        f"{line.strip()!r}"
                    )
                name = words[place]
            if name not in ("", ".", "?"):
                yield name, line


def _models(text: str) -> Iterator[list[str]]:
    """Yield the rows of atoms of each model of a PDB or PDBx/mmCIF file.

    Of an mmCIF file of several blocks the first counts, as OpenMM reads it.
    """
    columns = columns_of(text)
    text = _first_block(text) if columns else text
    rows = [line.lstrip(INVISIBLE) for line in text.splitlines()]
    if columns:
        if "group_PDB" not in columns:
            return
        number = columns.get("pdbx_PDB_model_num")
        models: dict[str, list[str]] = {}
        for row in rows:
            if row.upper().startswith(ATOM_ROWS):
                fields = row.split()
                model = fields[number] if number is not None else ""
                models.setdefault(model, []).append(row)
        yield from models.values()
        return
    model_rows: list[str] = []
    for row in [*rows, "ENDMDL"]:
        if row.upper().startswith(ATOM_ROWS):
            model_rows.append(row)
        elif row.startswith("ENDMDL") and model_rows:
            yield model_rows
            model_rows = []


def _first_block(text: str) -> str:
    """Return an mmCIF file up to its second data block."""
    starts = [match.start() for match in re.finditer(r"^data_", text, re.M | re.I)]
    return text[: starts[1]] if len(starts) > 1 else text


def columns_of(text: str) -> dict[str, int]:
    """Return the columns of an mmCIF file's atoms by name; empty for PDB."""
    names = [line.strip() for line in _first_block(text).splitlines()]
    sites = [name for name in names if name.startswith("_atom_site.")]
    return {name.removeprefix("_atom_site."): i for i, name in enumerate(sites)}
