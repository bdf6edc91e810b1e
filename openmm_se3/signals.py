"""Ctrl-C and SIGTERM: caught until the work can stop without losing anything."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Terminated(KeyboardInterrupt):
    """The process was asked to end; taken as Ctrl-C is, so that results are saved."""


class Signals:
    """Catches Ctrl-C and SIGTERM, so that a step is finished before the run stops.

    A second signal stops at once.  Handlers are put back at the end of the block.

    Attributes:
        received: Number of the signal, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is not threading.main_thread():
            return self  # handlers belong to the main thread
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.getsignal(number)
        self.install()
        return self

    def install(self) -> None:
        """Set the handlers, also over those that the trainer sets when it starts."""
        for number in self._before:
            signal.signal(number, self._handle)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.received is not None
        self.received = number
        if again:
            raise self.interrupt()

    def interrupt(self) -> KeyboardInterrupt:
        """Return the exception that a signal which was received stands for."""
        if self.received == signal.SIGTERM:
            return Terminated("terminated by a signal")
        return KeyboardInterrupt()
