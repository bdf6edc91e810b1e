"""Append-only journal of finished labels, safe against a kill at any moment.

One JSON object a line; a record counts once its line ends and has reached the disk.  A
line that a kill cut short is dropped when the journal is opened again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any


class Journal:
    """Records by key, kept in memory and on disk.

    Args:
        path: File of the journal; made if missing.

    Raises:
        ValueError: A complete line is not a record of this program.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, dict[str, Any]] = {}
        whole = 0
        if path.exists():
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            for number, line in enumerate(content[:whole].split(b"\n")[:-1], start=1):
                try:
                    record = json.loads(line)
                    self.records[record["key"]] = record
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(
                        f"{path}, line {number} is not a label record ({error}); take "
                        "that line out, or move the file away to start again"
                    ) from error
        self._file = open(path, "ab")
        self._file.truncate(whole)

    def append(self, key: str, record: dict[str, Any]) -> None:
        """Write one record and wait until it is on disk."""
        record = {"key": key, **record}
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.records[key] = record

    def close(self) -> None:
        """Close the file; an empty one is removed."""
        self._file.close()
        if not self.records:
            self.path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Close the file and remove it."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
