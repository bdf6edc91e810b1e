"""A page of sections: text, tables, figures, commands, molecules that move.

Everything is in the page itself: style, script, figures (SVG) and positions.  What is
given as text is escaped.
"""

from __future__ import annotations

import html
import importlib.resources
import io
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_se3.elements import COVALENT_RADII
from openmm_se3.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# One that fetches nothing: a browser refuses what would come from a network.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:"
)
KINDS = ("good", "warn", "bad", "")
REPORT = "report.html"
# What keeps a page small: frames and positions of a trajectory, points of a line.
MOST_FRAMES = 200
MOST_POSITIONS = 40_000
MOST_ATOMS = 8000
MOST_POINTS = 1500
DOTS_PER_INCH = 160  # of lines with more points
DRAWN_BOND = 1.3  # longest bond of a reaction that is drawn, in covalent radii
LONG_TEXT = 40  # characters of a cell that a phone must not squeeze
WIDE_INCHES = 6.0  # of figures that would be too small to read on a phone


class Page:
    """A page that grows from top to bottom.

    Args:
        title: Title of the page.
        subtitle: One line below it.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self._parts = [f"<h1>{html.escape(title)}</h1>"]
        if subtitle:
            self._parts.append(f'<p class="subtitle">{html.escape(subtitle)}</p>')
        self._moves = False

    def banner(self, headline: str, lines: Sequence[str], kind: str = "") -> None:
        """Add a headline with lines below it.

        Args:
            headline: The headline.
            lines: Reasons and remarks.
            kind: "good", "warn", "bad" or "", which decides its color.
        """
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
        listed = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
        body = f"<ul>{listed}</ul>" if lines else ""
        self._parts.append(
            f'<section class="banner {kind}"><h2>{html.escape(headline)}</h2>'
            f"{body}</section>"
        )

    def section(self, heading: str, *parts: str, columns: bool = False) -> None:
        """Add a section.

        Args:
            heading: Its heading.
            *parts: What the functions of this module return; empty ones are left out.
            columns: Put the parts beside each other, two in a row.
        """
        kept = [part for part in parts if part]
        if not kept:
            return
        self._moves = self._moves or any('class="viewer"' in part for part in kept)
        body = "\n".join(kept)
        if columns:
            body = '<div class="columns">' + "".join(f"<div>{p}</div>" for p in kept)
            body += "</div>"
        self._parts.append(
            f"<section><h2>{html.escape(heading)}</h2>\n{body}</section>"
        )

    def html(self) -> str:
        """Return the page."""
        script = f"<script>\n{_resource('viewer.js')}</script>\n" if self._moves else ""
        body = "\n".join(self._parts)
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{html.escape(self.title)}</title>\n"
            f"<style>\n{_resource('style.css')}</style>\n</head>\n"
            f"<body>\n<main>\n{body}\n</main>\n{script}</body>\n</html>\n"
        )

    def write(self, path: Path) -> None:
        """Write the page, whole or not at all."""
        with atomic_write(path) as temporary:
            temporary.write_text(self.html(), encoding="utf-8")


def paragraph(text: str) -> str:
    """Return a paragraph."""
    return f"<p>{html.escape(text)}</p>"


def caption(text: str) -> str:
    """Return small text below a table."""
    return f'<p class="caption">{html.escape(text)}</p>'


def code(text: str) -> str:
    """Return commands or a program, to be copied."""
    return f"<pre>{html.escape(text)}</pre>"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table; columns of numbers are aligned on the right.

    Args:
        header: Names of the columns; all empty leaves the header out.
        rows: Texts, or numbers as they are to be shown.
    """
    if not rows:
        return ""
    texts = [[str(cell) for cell in row] for row in rows]
    numeric = [all(_is_number(row[i]) for row in texts) for i in range(len(texts[0]))]

    def cells(row: Sequence[str], tag: str) -> str:
        marked = []
        for cell, right in zip(row, numeric, strict=True):
            kind = "number" if right else "long" if len(cell) > LONG_TEXT else ""
            attribute = f" class={kind}" if kind else ""
            marked.append(f"<{tag}{attribute}>{html.escape(cell)}</{tag}>")
        return "".join(marked)

    head = f"<thead><tr>{cells(header, 'th')}</tr></thead>" if any(header) else ""
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in texts)
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+\u2212]?[\d,.]+( ?%)?|-|", text) is not None


def repeat(command: str, versions: Mapping[str, str], note: str = "") -> list[str]:
    """Return the command that repeats something, and the versions that it ran with.

    Args:
        command: The command, or a few lines of Python.
        versions: Versions by name of the program.
        note: What else is needed to repeat it.
    """
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [code(command), caption(f"Versions: {listed}.  {note}".strip())]


def figure(drawn: Figure, text: str = "") -> str:
    """Return a figure of Matplotlib as SVG, with a caption.

    Lines of very many points become pixels, which need less room.
    """
    import matplotlib

    for axes in drawn.axes:
        for line in axes.lines:
            if len(np.asarray(line.get_xdata())) > MOST_POINTS:
                line.set_rasterized(True)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": text or "a"}):
        metadata = {"Date": None, "Creator": None}
        drawn.savefig(buffer, format="svg", metadata=metadata, dpi=DOTS_PER_INCH)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    below = f"<figcaption>{html.escape(text)}</figcaption>" if text else ""
    wide = ' class="wide"' if drawn.get_figwidth() > WIDE_INCHES else ""
    return f"<figure{wide}>{svg}{below}</figure>"


def stride(n_frames: int, n_atoms: int) -> int:
    """Return which frames of a trajectory a page shows: every so many."""
    most = max(1, min(MOST_FRAMES, MOST_POSITIONS // max(1, n_atoms)))
    return max(1, -(-n_frames // most))


def viewer(
    symbols: Sequence[str],
    bonds: np.ndarray,
    frames: np.ndarray,
    labels: Sequence[str],
    align: bool = True,
    changing: Sequence[tuple[int, int]] = (),
) -> str:
    """Return a molecule that can be turned, and its frames played.

    Long trajectories are thinned out, and very many atoms are not shown.

    Args:
        symbols: Chemical symbols [n_atoms].
        bonds: Pairs of bonded atoms [n_bonds, 2].
        frames: Positions [n_frames, n_atoms, 3], A.
        labels: What is shown beside each frame [n_frames].
        align: Turn all frames onto the first one.
        changing: Further pairs, which are drawn where they are as near as a bond.
    """
    if len(symbols) > MOST_ATOMS:
        return paragraph(f"{len(symbols):,} atoms are too many to be shown here.")
    every = stride(len(frames), len(symbols))
    shown = np.asarray(frames[::every], dtype=float)
    finite = np.isfinite(shown).all(axis=(1, 2))
    shown, labels = shown[finite], np.array(labels[::every])[finite].tolist()
    if not len(shown):
        return paragraph("There is no frame to show.")
    if align:
        shown = superposed(shown)
    else:
        shown = shown - shown[0].mean(axis=0)
    data = json.dumps(
        {
            "symbols": list(symbols),
            "bonds": np.asarray(bonds, dtype=int).tolist(),
            "changing": [(*pair, _longest(symbols, pair)) for pair in changing],
            "frames": np.round(shown, 3).tolist(),
            "labels": labels,
        },
        separators=(",", ":"),
    ).replace("<", "\\u003c")
    # One frame does not move.
    still = " hidden" if len(shown) < 2 else ""
    return (
        '<div class="viewer"><canvas></canvas><div class="controls">'
        f'<button type="button"{still}>Play</button>'
        f'<input type="range" min="0" max="{len(shown) - 1}" value="0" '
        f'aria-label="frame"{still}><output></output></div>'
        f'<script type="application/json">{data}</script></div>'
    )


def _longest(symbols: Sequence[str], pair: tuple[int, int]) -> float:
    """Return the longest distance at which a pair is drawn as a bond, A."""
    radii = sum(COVALENT_RADII[symbols[atom]] for atom in pair)
    return round(DRAWN_BOND * radii, 3)


def superposed(frames: np.ndarray) -> np.ndarray:
    """Return frames [n_frames, n_atoms, 3] turned onto the first one, centered."""
    from scipy.spatial.transform import Rotation

    centered = frames - frames.mean(axis=1, keepdims=True)
    if centered.shape[1] < 2:
        return centered
    first = centered[0]
    turned = []
    for frame in centered:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            # Atoms on a line leave the rotation about it open.
            warnings.simplefilter("ignore")
            rotation, _ = Rotation.align_vectors(first, frame)
        turned.append(rotation.apply(frame))
    return np.array(turned)


def _resource(name: str) -> str:
    return (importlib.resources.files(__package__) / name).read_text(encoding="utf-8")
