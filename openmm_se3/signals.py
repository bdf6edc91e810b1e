"""Signals that ask a process to end, caught until it can stop without losing anything.

These are Ctrl-C (SIGINT), SIGTERM, SIGHUP of a terminal that was closed, and those that
batch systems send before a job's time is over: SIGUSR1, SIGUSR2 and SIGXCPU.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

STOPPING = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
)
# A second one of these stops at once.  The others come more than once by themselves:
# SIGXCPU every second, SIGHUP from the terminal and from the shell.
IMPATIENT = (signal.SIGINT, signal.SIGTERM)

_raised: int | None = None  # the last signal that stop_at_once made an exception of


class Terminated(KeyboardInterrupt):
    """The process was asked to end; taken as Ctrl-C is, so that results are saved.

    Args:
        number: Number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"terminated by {signal.Signals(number).name}")
        self.number = number


def interruption(number: int) -> KeyboardInterrupt:
    """Return the exception that a signal stands for."""
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


class Signals:
    """Catches the signals, so that a step is finished before the run stops.

    A second Ctrl-C or SIGTERM stops at once.  Signals that the process was started to
    ignore, such as SIGHUP by nohup, stay ignored.  Handlers are put back at the end of
    the block.

    Attributes:
        received: Number of the signal, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        self._before = _handlers()
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
        if number == signal.SIGHUP:
            leave_closed_terminal()
        insists = number in IMPATIENT and self.received in IMPATIENT
        if self.received is None or number in IMPATIENT:
            self.received = number
        if insists:
            raise self.interrupt()

    def interrupt(self) -> KeyboardInterrupt:
        """Return the exception that a signal which was received stands for."""
        return interruption(self.received or signal.SIGINT)


@contextlib.contextmanager
def stop_at_once() -> Iterator[None]:
    """Let each of the signals raise, for the length of a block.

    Raises:
        Terminated: At once when one comes; KeyboardInterrupt at Ctrl-C.
    """
    global _raised  # a signal is the whole process's
    _raised = None
    before = _handlers()

    def stop(number: int, frame: FrameType | None) -> None:
        global _raised
        if number == signal.SIGHUP:
            leave_closed_terminal()
        if number not in IMPATIENT:
            signal.signal(number, signal.SIG_IGN)  # the next one comes by itself
        _raised = number
        raise interruption(number)

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def raise_again() -> None:
    """Raise what a signal has raised, where other code made an error of it.

    OpenMM makes an OpenMMException of all that a PythonForce raises.

    Raises:
        KeyboardInterrupt: A signal came in a block of :func:`stop_at_once`.
    """
    if _raised is not None:
        raise interruption(_raised)


def _handlers() -> dict[int, Any]:
    """Return the handlers of the signals, but of those that are ignored.

    Handlers belong to the main thread: there are none in another.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    return {n: h for n, h in handlers.items() if h is not signal.SIG_IGN}


def leave_closed_terminal() -> None:
    """Send output to nowhere that would go to a terminal which was closed.

    Writing to it is an error, which would end the process before it has saved anything.
    """
    for descriptor in (1, 2):
        try:
            is_device = stat.S_ISCHR(os.fstat(descriptor).st_mode)
        except OSError:
            continue  # there is no such output
        if is_device and not os.isatty(descriptor):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
