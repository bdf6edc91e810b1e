"""Plant faults in a copy of the package, one at a time, and see which the tests find.

    python tests/mutants/plant.py               all faults
    python tests/mutants/plant.py model drift   of model.yaml, or with "drift" in it
    python tests/mutants/plant.py --check       only look whether the list still fits

A fault is an entry of a YAML file in this folder:

    - breaks: what goes wrong, in a line
      file: path in openmm_se3/
      old: text that occurs exactly once in the file
      new: text that takes its place
      tests: arguments of pytest, such as [tests/nn/test_zbl.py, -k, wall]

All tests that are named run once without a fault, and must pass.  Then each fault is
planted and its tests run.  A fault is killed when a test fails, and survives when all
pass.  Exit code 0: all killed; 1: some survived; 2: the list does not fit the package.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
PACKAGE = "openmm_se3"
KEYS = {"breaks", "file", "old", "new", "tests"}
TIME_LIMIT = 300.0  # s, of the tests of one fault: a fault may hang them
PYTEST = ["-x", "-q", "-p", "no:cacheprovider", "--no-header"]
# Exit codes of pytest; others say that it could not run.
PASSED, FAILED, INTERNAL_ERROR = 0, 1, 3
LIBRARIES = (
    *("torch", "e3nn.o3", "openmm.app", "lightning_fabric", "dgl.dataloading"),
    *("h5py", "mdtraj", "scipy.signal", "matplotlib.pyplot", "rich.console", "click"),
)


class FaultListError(Exception):
    """An entry does not fit the package or the tests."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """One change of one file.

    Attributes:
        breaks: What goes wrong, in a line.
        file: Path in the package.
        old: Text that occurs once in the file.
        new: Text that takes its place.
        tests: Arguments of pytest that choose the tests that should see it.
        group: Name of the file that lists it, without suffix.
    """

    breaks: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    group: str

    def planted_in(self, text: str) -> str:
        """Return a file's text with the fault.

        Raises:
            FaultListError: The text to replace does not occur exactly once.
        """
        count = text.count(self.old)
        if count != 1 or self.old == self.new:
            raise FaultListError(
                f"{self.group}: {self.breaks!r}: the old text occurs {count} times in "
                f"{self.file}; it must occur once, and differ from the new one"
            )
        return text.replace(self.old, self.new)


def read_faults(folder: Path) -> list[Fault]:
    """Return the faults of all lists in a folder.

    Raises:
        FaultListError: An entry lacks a key or has an unknown one.
    """
    faults = []
    for path in sorted(folder.glob("*.yaml")):
        for entry in yaml.safe_load(path.read_text()):
            if set(entry) != KEYS:
                raise FaultListError(f"{path.name}: {entry} needs the keys {KEYS}")
            values: dict[str, Any] = {**entry, "tests": tuple(entry["tests"])}
            faults.append(Fault(group=path.stem, **values))
    return faults


def chosen(faults: Sequence[Fault], words: Sequence[str]) -> list[Fault]:
    """Return the faults of lists by name, and those with a word in file or text."""
    groups = {fault.group for fault in faults}

    def fits(fault: Fault, word: str) -> bool:
        if word in groups:
            return word == fault.group
        return word in fault.breaks or word in fault.file

    return [f for f in faults if not words or any(fits(f, word) for word in words)]


def check(faults: Sequence[Fault], root: Path) -> None:
    """Make sure that every fault fits the files of a tree, and that its tests exist.

    Raises:
        FaultListError: One does not.
    """
    problems = []
    for fault in faults:
        try:
            fault.planted_in((root / PACKAGE / fault.file).read_text())
            for argument in fault.tests:
                if argument.startswith("tests/"):
                    (root / argument.partition("::")[0]).stat()
        except (FaultListError, FileNotFoundError) as error:
            problems.append(str(error))
    if problems:
        raise FaultListError("\n".join(problems))


@contextmanager
def copied_tree(root: Path) -> Iterator[Path]:
    """Give a copy of the tree's files, tracked or new, without what git ignores."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    with tempfile.TemporaryDirectory(prefix="openmm-se3-faults-") as folder:
        copy = Path(folder) / "tree"
        for name in listing.split("\0"):
            if name and (root / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, copy / name)
        yield copy


@contextmanager
def planted(fault: Fault, tree: Path) -> Iterator[None]:
    """Plant a fault in a tree, and take it out again."""
    path = tree / PACKAGE / fault.file
    before = path.read_text()
    path.write_text(fault.planted_in(before))
    try:
        yield
    finally:
        path.write_text(before)


def run_tests(
    tree: Path, tests: Sequence[str], cache: Path | None = None
) -> tuple[int, str]:
    """Run tests on a tree; return pytest's exit code and the test that failed first.

    In a fork of this process, which has loaded the libraries, but not the package:
    loading them takes longer than most tests.  Tests that hang count as failed.

    Args:
        tree: Root of the tree.
        tests: Arguments of pytest.
        cache: Where compiled networks go; None for the user's own cache.
    """
    with tempfile.TemporaryFile("w+") as output:
        process = os.fork()
        if not process:
            if cache is not None:
                os.environ["XDG_CACHE_HOME"] = str(cache)
            _become_pytest(tree, tests, output.fileno())
        code = _wait(process)
        output.seek(0)
        lines = output.read().splitlines()
    if code is None:
        return FAILED, "time limit"
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    last = failed[0].split(" - ")[0] if failed else (lines or [""])[-1]
    return code, last.removeprefix("FAILED tests/")


def load_libraries() -> None:
    """Import what the tests need and no fault is planted in."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "DGLBACKEND": "pytorch"}
    for name in LIBRARIES:
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)
    if PACKAGE in sys.modules:
        raise RuntimeError(f"{PACKAGE} is imported, faults in it would not be seen")


def _become_pytest(tree: Path, tests: Sequence[str], output: int) -> NoReturn:
    os.setsid()  # so that what the tests start can be ended with them
    for stream in (1, 2):
        os.dup2(output, stream)
    os.chdir(tree)
    # For this process and for those that tests start.  Bytecode of a file that changes
    # twice a second would be that of another fault.
    sys.path.insert(0, str(tree))
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        code = int(pytest.main([*PYTEST, *tests]))
        sys.stdout.flush()
    except BaseException:
        code = INTERNAL_ERROR
    os._exit(code)


def _wait(process: int) -> int | None:
    """Return a process's exit code, or None if it had to be ended."""
    end = time.monotonic() + TIME_LIMIT
    while time.monotonic() < end:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def verdict(code: int) -> str:
    """Return what pytest's exit code says of a fault."""
    return {PASSED: "SURVIVED", FAILED: "killed"}.get(code, f"error {code}")


def require_passing(tree: Path, faults: Sequence[Fault]) -> None:
    """Make sure that the tests of faults pass without them.

    Raises:
        FaultListError: They do not, or there are none of the names.
    """
    for tests in dict.fromkeys(fault.tests for fault in faults):
        code, last = run_tests(tree, tests)
        if code != PASSED:
            raise FaultListError(f"without a fault: pytest {' '.join(tests)}: {last}")


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", help="a list's name or part of a fault")
    parser.add_argument("--check", action="store_true", help="run no tests")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="do not run the tests without a fault first",
    )
    parser.add_argument("--faults", type=Path, default=FOLDER, help="folder of lists")
    options = parser.parse_args(arguments)
    try:
        faults = chosen(read_faults(options.faults), options.words)
        check(faults, root)
        if options.check:
            print(f"{len(faults)} faults fit")
            return 0
        load_libraries()
        with copied_tree(root) as tree:
            if not options.trust:
                require_passing(tree, faults)
            return report(tree, faults)
    except FaultListError as error:
        print(error, file=sys.stderr)
        return 2


def report(tree: Path, faults: Sequence[Fault]) -> int:
    """Plant every fault, print the table as it grows; return the exit code."""
    counts: dict[str, int] = {}
    for fault in faults:
        start = time.monotonic()
        with planted(fault, tree):
            # Code with a fault is not to be found by others.
            cache = tree.parent / "cache" if fault.file.endswith(".h") else None
            code, last = run_tests(tree, fault.tests, cache)
        outcome = verdict(code)
        counts[outcome] = counts.get(outcome, 0) + 1
        seconds = time.monotonic() - start
        by = f"  [{last}]" if code != PASSED else ""
        print(
            f"{outcome:8} {seconds:4.0f} s  {fault.file}: {fault.breaks}{by}",
            flush=True,
        )
    print(", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    return 0 if counts.get("killed", 0) == len(faults) else 1


if __name__ == "__main__":
    sys.exit(main())
