"""The tool that plants faults, on a package of one function."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent / "mutants"))
import plant

TOOL = Path(plant.__file__)
TEST = """
from openmm_se3.sums import add


def test_add():
    assert add(1, 2) == 3
"""


def fault(**changes: str | list[str]) -> dict[str, str | list[str]]:
    entry: dict[str, str | list[str]] = {
        "breaks": "sum is a difference",
        "file": "sums.py",
        "old": "return a + b",
        "new": "return a - b",
        "tests": ["tests/test_sums.py"],
    }
    return {**entry, **changes}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A git repository with a package of one function and a test of it."""
    root = tmp_path / "root"
    files = {
        "openmm_se3/__init__.py": "",
        "openmm_se3/sums.py": "def add(a, b):\n    return a + b\n",
        "tests/test_sums.py": TEST,
        ".gitignore": "ignored/\n",
        "ignored/large": "not copied",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return root


def plant_in(tree: Path, *faults: dict[str, str | list[str]]) -> tuple[int, str, str]:
    """Return exit code, output and errors of the tool with these faults.

    In a process of its own, which has not imported our package as this one has.
    """
    folder = tree.parent / "faults"
    folder.mkdir()
    (folder / "sums.yaml").write_text(yaml.safe_dump(list(faults)))
    code = (
        "import pathlib, sys; import plant; plant.LIBRARIES = ();"
        f"sys.exit(plant.main(['--faults', {str(folder)!r}], "
        f"pathlib.Path({str(tree)!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=TOOL.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def test_faults_are_killed_or_survive(tree: Path) -> None:
    survivor = fault(breaks="sum of the first twice", new="return a + b + 0 * a")
    code, table, errors = plant_in(tree, fault(), survivor)
    assert code == 1, errors
    killed, survived, counts = table.splitlines()
    assert killed.startswith("killed") and "[test_sums.py::test_add]" in killed
    assert survived.startswith("SURVIVED") and "first twice" in survived
    assert counts == "1 SURVIVED, 1 killed"
    # The tree itself is as it was.
    assert (tree / "openmm_se3/sums.py").read_text().endswith("return a + b\n")


def test_all_killed_is_success(tree: Path) -> None:
    code, table, errors = plant_in(tree, fault())
    assert code == 0, errors
    assert table.splitlines()[-1] == "1 killed"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"old": "return a * b"}, "occurs 0 times"),
        ({"old": "a"}, "occurs 3 times"),
        ({"old": "return a + b", "new": "return a + b"}, "differ"),
        ({"file": "nothing.py"}, "nothing.py"),
        ({"tests": ["tests/test_nothing.py"]}, "test_nothing.py"),
    ],
    ids=["not there", "not unique", "no change", "no file", "no test"],
)
def test_entries_that_do_not_fit_are_refused(
    tree: Path, changes: dict[str, str | list[str]], named: str
) -> None:
    code, table, errors = plant_in(tree, fault(**changes))
    assert code == 2
    assert named in errors
    assert "killed" not in table


def test_tests_that_fail_without_a_fault_kill_nothing(tree: Path) -> None:
    (tree / "tests/test_sums.py").write_text(TEST.replace("== 3", "== 4"))
    code, _, errors = plant_in(tree, fault())
    assert code == 2
    assert "test_add" in errors


def test_the_lists_fit_this_tree() -> None:
    plant.check(plant.read_faults(TOOL.parent), plant.ROOT)
