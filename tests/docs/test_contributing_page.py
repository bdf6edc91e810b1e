"""CONTRIBUTING.md: the rooms that it sends to exist; the citation has the version."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from openmm_se3.version import __version__

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def test_every_change_of_the_list_has_a_place() -> None:
    table = PAGE.partition("### Everyday changes")[2].partition("## Commits")[0]
    rows = re.findall(r"^\| (?!change \||---)(.+?) \| (.+) \|$", table, re.M)
    assert len(rows) >= 20
    for change, places in rows:
        paths = re.findall(r"`(openmm_se3/[\w./]+)`", places)
        assert paths, change
        for path in paths:
            assert (ROOT / path).exists(), f"{change}: {path}"


def test_what_the_text_names_is_there() -> None:
    for path in re.findall(r"`((?:openmm_se3|tests|docs|models)/[\w./]+)`", PAGE):
        assert (ROOT / path).exists(), path
    package = ROOT / "openmm_se3"
    for path in re.findall(r"`([a-z_]+/[\w./]+\.py)`", PAGE):
        assert (package / path).exists() or (ROOT / path).exists(), path
    source = {
        "FORMATS": "data/formats/registry.py",
        "detect_format": "data/formats/registry.py",
        "read_format": "data/formats/registry.py",
        "BACKENDS": "force/backends.py",
        "NEEDED": "compiled/library.py",
        "VERBS": "cli/__init__.py",
    }
    for name, path in source.items():
        assert re.search(rf"\b{name}\b", (package / path).read_text()), name


def test_tests_mirror_the_package_in_short_files() -> None:
    tests = ROOT / "tests"
    others = {"benchmarks", "docs", "examples", "fuzz", "helpers", "mutants"}
    for path in sorted(tests.rglob("*.py")):
        folder = path.relative_to(tests).parts[0]
        mirrored = (ROOT / "openmm_se3" / folder).is_dir() or folder in others
        assert path.parent == tests or mirrored, path
        assert len(path.read_text().splitlines()) <= 500, path


def test_the_citation_has_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    (thesis,) = citation["references"]
    assert thesis["title"] == "Learning inter-atomic forces with an SE(3)-Transformer"
