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
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_se3.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# One that fetches nothing: a browser refuses what would come from a network.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:"
)
KINDS = ("good", "warn", "bad", "")


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
        return "".join(
            f"<{tag}{' class=number' if right else ''}>{html.escape(cell)}</{tag}>"
            for cell, right in zip(row, numeric, strict=True)
        )

    head = f"<thead><tr>{cells(header, 'th')}</tr></thead>" if any(header) else ""
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in texts)
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+\u2212]?[\d,.]+( ?%)?|-|", text) is not None


def figure(drawn: Figure, text: str = "") -> str:
    """Return a figure of Matplotlib as SVG, with a caption."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": text or "a"}):
        drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    below = f"<figcaption>{html.escape(text)}</figcaption>" if text else ""
    return f"<figure>{svg}{below}</figure>"


def viewer(
    symbols: Sequence[str],
    bonds: np.ndarray,
    frames: np.ndarray,
    labels: Sequence[str],
) -> str:
    """Return a molecule that can be turned, and its frames played.

    Args:
        symbols: Chemical symbols [n_atoms].
        bonds: Pairs of bonded atoms [n_bonds, 2].
        frames: Positions [n_frames, n_atoms, 3], A.
        labels: What is shown beside each frame [n_frames].
    """
    aligned = superposed(np.asarray(frames, dtype=float))
    data = json.dumps(
        {
            "symbols": list(symbols),
            "bonds": np.asarray(bonds, dtype=int).tolist(),
            "frames": np.round(aligned, 3).tolist(),
            "labels": list(labels),
        },
        separators=(",", ":"),
    ).replace("<", "\\u003c")
    return (
        '<div class="viewer"><canvas></canvas><div class="controls">'
        '<button type="button">Play</button>'
        f'<input type="range" min="0" max="{len(aligned) - 1}" value="0" '
        'aria-label="frame"><output></output></div>'
        f'<script type="application/json">{data}</script></div>'
    )


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
