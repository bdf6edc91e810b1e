"""The folder of one run: its files, its lock, what it says of an earlier run."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

from openmm_se3.files import LockedError, atomic_write, run_lock
from openmm_se3.simulation.options import MAX_SEED, RunOptions

RUN = "run.json"  # what was asked for, on what it ran and how it ended
TOPOLOGY = "topology.pdb"  # atoms, with the minimized structure
TRAJECTORY = "trajectory.dcd"
TRAJECTORY_XTC = "trajectory.xtc"
VELOCITIES = "velocities.npy"
LOG = "log.csv"
LAST_GOOD_FRAME = "last_good.pdb"
LAST_GOOD_STATE = "last_good_state.xml"
UNCERTAIN_FRAME = "uncertain.pdb"  # stopped the run
FINAL_STATE = "final_state.xml"
SUMMARY = "summary.json"
REPORT = "report.md"
PAGE = "report.html"
FIGURE = "figure.png"
CHECKPOINTS = "checkpoints"  # a folder
LOCK = ".lock"

RECORDS = (TRAJECTORY, TRAJECTORY_XTC, VELOCITIES, LOG)  # grow while a run goes on
ENDINGS = (
    *(LAST_GOOD_FRAME, LAST_GOOD_STATE, UNCERTAIN_FRAME, FINAL_STATE),
    *(SUMMARY, REPORT, FIGURE, PAGE),
)
# The checkpoints first: without them nobody can go on with what a kill leaves of these.
RESULTS = (CHECKPOINTS, *RECORDS, *ENDINGS, TOPOLOGY, RUN)


class FolderInUseError(RuntimeError):
    """Another run writes to the folder, or its results would be overwritten."""


class RunFolder:
    """Holds a folder for one run, as a context manager.

    The lock belongs to the process: it ends with it, however it ends, so that a killed
    run leaves nothing to clean up.

    Args:
        path: The folder; it is made if absent.
        results_allowed: Whether it may hold the results of an earlier run.
    """

    def __init__(self, path: str | Path, results_allowed: bool = False) -> None:
        self.path = Path(path)
        self.results_allowed = results_allowed
        self._lock = contextlib.ExitStack()
        self._is_new = False

    def __enter__(self) -> RunFolder:
        """Make and lock the folder.

        Raises:
            FolderInUseError: Another run holds it, or it has results already.
            OSError: It cannot be made or written to.
        """
        self._is_new = not self.path.exists()
        self._acquire()
        try:
            if not self.results_allowed:
                refuse_results(self.path)
        except FolderInUseError:
            self._lock.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release the folder; one that is new and still empty is removed."""
        self._lock.close()
        if self._is_new:
            with contextlib.suppress(OSError):  # it is not empty
                self.path.rmdir()

    def __truediv__(self, name: str) -> Path:
        """Return the path of a file in the folder."""
        return self.path / name

    def clear(self, names: tuple[str, ...] = RESULTS) -> None:
        """Delete results of an earlier run; other files stay."""
        for name in names:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file whole or not at all."""
        write_json(self.path / name, content)

    def _acquire(self) -> None:
        while True:
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.enter_context(run_lock(self.path / LOCK))
            except FileNotFoundError:
                continue  # the last holder has just removed its empty folder
            except LockedError as error:
                raise FolderInUseError(
                    f"another run writes to {self.path}: {error}, or give --out "
                    "another folder"
                ) from None
            return


def refuse_results(path: str | Path) -> None:
    """Make sure that a folder has no results that a new run would replace.

    Raises:
        FolderInUseError: It has some.
    """
    found = [name for name in RESULTS if (Path(path) / name).exists()]
    if found:
        raise FolderInUseError(
            f"{path} has results of an earlier run ({', '.join(found)}); --resume goes "
            "on with it, --overwrite replaces them, --out names another folder"
        )


def read_facts(path: Path) -> dict[str, Any]:
    """Return what a ``run.json`` says.

    Raises:
        ValueError: It is damaged.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}): remove it, and --resume goes on from the "
            "checkpoint beside it"
        ) from error
    if not isinstance(facts, dict):
        raise ValueError(f"{path} is damaged: it is not a JSON object; remove it")
    return facts


def chosen_seed(options: RunOptions) -> int:
    """Return the seed of a run: as asked for, that of the run to resume, or a new one.

    Args:
        options: What to run, and the folder in which it may have been begun.
    """
    if options.seed is not None:
        return options.seed
    run = Path(options.out) / RUN
    if options.resume and run.is_file():
        facts = read_facts(run)
        if seed := facts["options"]["seed"]:
            return int(seed)
    return 1 + secrets.randbelow(MAX_SEED)


def was_cut_short(path: str | Path) -> bool:
    """Tell whether a folder holds an interrupted run that has production frames."""
    run = Path(path) / RUN
    if not run.is_file():
        return False
    facts = read_facts(run)
    return bool(
        facts["status"] == "interrupted" and facts["steps"] >= facts["frame_interval"]
    )


def trajectory_name(facts: dict[str, Any]) -> str:
    """Return the name of the trajectory of a run, from what ``run.json`` says."""
    is_xtc = facts["options"].get("trajectory") == "xtc"
    return TRAJECTORY_XTC if is_xtc else TRAJECTORY


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all; not-a-number is refused."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
