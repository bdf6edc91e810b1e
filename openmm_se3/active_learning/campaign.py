"""The folder of a campaign: its files, its lock and its journal of events."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openmm_se3.files import run_lock

SETTINGS = "campaign.json"
JOURNAL = "journal.jsonl"
LOCK = ".lock"
MODEL = "model"
LEAST_DISK = 200 << 20  # bytes that a campaign may need


class Campaign:
    """A folder and its events.

    An event has ``event`` (its name), ``time`` (s since 1970), and whatever belongs to
    it; ``seconds`` is what it took.  A line that a kill cut short is dropped.

    Args:
        folder: The folder; made if missing.

    Raises:
        OSError: The disk is full.
        ValueError: A complete line of the journal is not an event.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("data", "runs"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.require_disk()
        self.journal = folder / JOURNAL
        self.events: list[dict[str, Any]] = []
        self._started = time.monotonic()
        if self.journal.exists():
            content = self.journal.read_bytes()
            whole = content.rfind(b"\n") + 1
            for number, line in enumerate(content[:whole].splitlines(), start=1):
                try:
                    self.events.append(dict(json.loads(line)))
                except ValueError as error:
                    raise ValueError(
                        f"{self.journal}, line {number} is no event ({error}); the "
                        "file was changed or the disk is damaged"
                    ) from error
            if whole < len(content):
                os.truncate(self.journal, whole)

    def require_disk(self) -> None:
        """Refuse to go on where the disk is about to be full.

        Raises:
            OSError: Names the folder and what is free.
        """
        free = shutil.disk_usage(self.folder).free
        if free < LEAST_DISK:
            raise OSError(
                f"only {free >> 20} MB are free on the disk of {self.folder}; make "
                f"room for {LEAST_DISK >> 20} MB and resume the campaign"
            )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes away.

        Raises:
            LockedError: Another process works in the folder.
        """
        with run_lock(self.folder / LOCK):
            yield

    def record(self, event: str, **values: Any) -> dict[str, Any]:
        """Append an event and wait until it is on disk."""
        entry = {"event": event, "time": round(time.time(), 1), **values}
        with open(self.journal, "ab") as file:
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.events.append(entry)
        return entry

    def find(self, event: str, **values: Any) -> dict[str, Any] | None:
        """Return the last event of this name with these values; None without one."""
        for entry in reversed(self.events):
            if entry["event"] == event and all(
                entry.get(key) == value for key, value in values.items()
            ):
                return entry
        return None

    def all(self, event: str) -> list[dict[str, Any]]:
        """Return the events of this name, in order."""
        return [entry for entry in self.events if entry["event"] == event]

    def labels_spent(self) -> int:
        """Return how many labels of the budget are used."""
        return sum(entry["tried"] for entry in self.all("labeled"))

    def seconds_spent(self) -> float:
        """Return the seconds of all finished steps, of earlier sessions too."""
        return float(sum(entry.get("seconds", 0.0) for entry in self.events))

    def round_file(self, name: str, number: int) -> Path:
        """Return the file of labels ``name`` of a round."""
        return self.folder / "data" / f"{name}-{number:02d}.h5"

    def round_folder(self, number: int) -> Path:
        """Return the folder of a round; -1 is the pretraining."""
        name = "pretraining" if number < 0 else f"round-{number:02d}"
        return self.folder / "runs" / name

    def member_folder(self, number: int, member: int) -> Path:
        """Return the training run of a member in a round."""
        return self.round_folder(number) / f"member-{member}"


@contextlib.contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Put the seconds that a block takes into a dictionary, to be recorded."""
    taken = {"seconds": 0.0}
    start = time.monotonic()
    yield taken
    taken["seconds"] = round(time.monotonic() - start, 2)
