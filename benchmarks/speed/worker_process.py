"""A worker seen from the script that started it: questions, answers, limits."""

from __future__ import annotations

import dataclasses
import json
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openmm_se3.benchmark.machine import peak_memory

POLL_SECONDS = 0.1
MIB, GB = 2**20, 1e9  # bytes


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a worker may take.

    Attributes:
        seconds: For one answer: to get ready, or for one round, s.
        gigabytes: Memory, GB.
    """

    seconds: float
    gigabytes: float


class WorkerError(Exception):
    """A worker failed; the message says how."""


class OverLimitError(WorkerError):
    """A worker took too much, or found too little; the message says of what."""


class Worker:
    """A process that is ended when it takes too much.

    Args:
        command: What to run.
        variables: Its environment.
        log: File for what it prints.
        limits: What it may take.
    """

    def __init__(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        log: Path,
        limits: Limits,
    ) -> None:
        self._limits = limits
        self._log = log
        with open(log, "w") as file:
            self._process = subprocess.Popen(
                command,
                env=variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )

    def answer(self) -> dict[str, Any]:
        """Wait for the next answer.

        Raises:
            OverLimitError: It took too much.
            WorkerError: It ended by itself.
        """
        out = self._process.stdout
        assert out is not None
        deadline = time.monotonic() + self._limits.seconds
        while not select.select([out], [], [], POLL_SECONDS)[0]:
            if time.monotonic() > deadline:
                self.end()
                raise OverLimitError(f"over {self._limits.seconds:g} s")
            if peak_memory(self._process.pid) * MIB > GB * self._limits.gigabytes:
                self.end()
                raise OverLimitError(f"over {self._limits.gigabytes:g} GB")
        line = out.readline()
        if not line:
            code = self._process.wait()
            last = self._log.read_text(errors="replace").strip().splitlines()[-1:]
            raise WorkerError(f"ended with code {code}: {' '.join(last)}; {self._log}")
        answer: dict[str, Any] = json.loads(line)
        if "over" in answer:
            self.end()
            raise OverLimitError(answer["over"])
        return answer

    def round(self) -> dict[str, Any]:
        """Let it time a round.

        Raises:
            WorkerError: As for :meth:`answer`.
        """
        assert self._process.stdin is not None
        try:
            print("round", file=self._process.stdin, flush=True)
        except BrokenPipeError:
            pass  # it ended; why is found below
        return self.answer()

    def end(self) -> None:
        """End the process; nothing if it has ended."""
        self._process.kill()
        self._process.communicate()
