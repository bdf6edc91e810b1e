"""Equations of the pages as outlines, which need no script and no font of the reader.

A hook of MkDocs.  Arithmatex marks the equations of a page; matplotlib sets them.
"""

from __future__ import annotations

import html
import re
from typing import Any

from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from mkdocs.exceptions import PluginError

MARKED = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.S
)
NUMBER = re.compile(r"\\tag\{(.*?)\}")
FONT = FontProperties(family="STIXGeneral", math_fontfamily="stix")
COMMANDS: dict[int, str] = {
    Path.MOVETO: "M",
    Path.LINETO: "L",
    Path.CURVE3: "Q",
    Path.CURVE4: "C",
    Path.CLOSEPOLY: "Z",
}


def on_page_content(content: str, **_: Any) -> str:
    """Return the HTML of a page with its equations as SVG.

    Raises:
        PluginError: An equation is left, which a reader would see as LaTeX.
    """
    page = MARKED.sub(_equation, content)
    if "arithmatex" in page:
        raise PluginError("an equation was not set")
    return page


def _equation(match: re.Match[str]) -> str:
    tex = html.unescape(match["tex"])
    if match["tag"] == "span":
        return outline(tex)
    number = NUMBER.search(tex)
    label = f"<span>({number[1]})</span>" if number else ""
    return f'<div class="equation">{outline(NUMBER.sub("", tex))}{label}</div>'


def outline(tex: str) -> str:
    """Return an equation as an SVG element, its baseline on that of the text.

    Raises:
        PluginError: matplotlib cannot set it.
    """
    size = 10.0
    try:
        path = TextPath((0.0, 0.0), f"${' '.join(tex.split())}$", size, prop=FONT)
    except ValueError as error:
        raise PluginError(f"the equation {tex} cannot be set: {error}") from error
    (left, bottom), (right, top) = path.get_extents().get_points()
    drawn = " ".join(
        COMMANDS[code] + ",".join(f"{x:.2f},{-y:.2f}" for x, y in points.reshape(-1, 2))
        if code != Path.CLOSEPOLY
        else "Z"
        for points, code in path.iter_segments(simplify=False)
    )
    width, height = (right - left) / size, (top - bottom) / size
    # A little larger than the text, whose letters are sans serif and look larger.
    return (
        f'<svg class="math" role="img" aria-label="{html.escape(tex)}" '
        f'viewBox="{left:.2f} {-top:.2f} {right - left:.2f} {top - bottom:.2f}" '
        f'style="width:{1.1 * width:.3f}em;height:{1.1 * height:.3f}em;'
        f'vertical-align:{1.1 * bottom / size:.3f}em">'
        f'<path d="{drawn}"/></svg>'
    )
