"""docs/architecture.md: its tree is the package's, and its rows allow every import."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "openmm_se3"
PAGE = (ROOT / "docs/architecture.md").read_text()


def tree() -> list[str]:
    """Return the lines of the page's tree of folders."""
    (block,) = re.findall(r"```text\n(openmm_se3/\n.*?)```", PAGE, re.S)
    return block.splitlines()


def test_the_tree_names_every_part_and_nothing_else() -> None:
    named = {match[1] for line in tree() if (match := re.match(r"  (\S+)", line))}
    folders = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    modules = {path.name for path in PACKAGE.glob("*.py")}
    assert named == folders | modules
    inner = {match[1] for line in tree() if (match := re.match(r"    (\S+)", line))}
    deeper = {f"{path.parent.name}/" for path in PACKAGE.glob("*/*/__init__.py")}
    assert inner == deeper | {"source/"}
    for line in tree():
        if match := re.match(r"(\S+/)", line):
            assert (ROOT / match[1]).is_dir(), line


def test_imports_follow_the_rows() -> None:
    row_of = {
        part: int(number)
        for number, parts in re.findall(r"^\| (\d+) \| (.+?) \|$", PAGE, re.M)
        for part in re.findall(r"`(\w+)`", parts)
    }
    seen = 0
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if part == "__init__":
            continue
        assert part in row_of, f"{path}: which row is it in?"
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            first, *names = node.module.split(".")
            if first != "openmm_se3":
                continue
            imported = names[:1] or [alias.name for alias in node.names]
            for name in filter(row_of.__contains__, imported):  # others are attributes
                seen += 1
                assert row_of[name] <= row_of[part], f"{path}: {node.module}"
    assert seen > 200
