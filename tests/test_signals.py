from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import openmm
import pytest

from openmm_se3.signals import (
    STOPPING,
    Signals,
    Terminated,
    interruption,
    raise_again,
    stop_at_once,
)

# Works, prints and saves, as the steps of a run do.
WORKER = """
import pathlib, sys, time
from openmm_se3.signals import Signals
with Signals() as signals:
    pathlib.Path("started").touch()
    end = time.monotonic() + 60.0
    while signals.received is None and time.monotonic() < end:
        time.sleep(0.02)
        print("a step", flush=True)
    for _ in range(5):
        print("the last steps", flush=True)
        print("of which there are a few", file=sys.stderr, flush=True)
    pathlib.Path("saved").write_text(str(signals.received))
"""


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_is_kept_until_the_step_is_over(number: int) -> None:
    before = signal.getsignal(number)
    with Signals() as signals:
        signal.raise_signal(number)
        assert signals.received == number
    assert signal.getsignal(number) == before
    error = signals.interrupt()
    assert isinstance(error, Terminated) == (number != signal.SIGINT)
    assert type(interruption(number)) is type(error)


@pytest.mark.parametrize("number", STOPPING)
def test_only_impatient_signals_stop_at_once(number: int) -> None:
    impatient = number in (signal.SIGINT, signal.SIGTERM)
    with Signals() as signals:
        signal.raise_signal(number)
        if impatient:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        else:
            signal.raise_signal(number)
            signal.raise_signal(signal.SIGTERM)
            assert signals.received == signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_that_openmm_made_an_error_of_is_raised_again(number: int) -> None:
    def compute(state: openmm.State) -> tuple[float, np.ndarray]:
        signal.raise_signal(number)
        return 0.0, np.zeros((1, 3))

    system = openmm.System()
    system.addParticle(1.0)
    system.addForce(openmm.PythonForce(compute))
    platform = openmm.Platform.getPlatformByName("Reference")
    with stop_at_once():
        raise_again()  # nothing has come
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
        context.setPositions(np.zeros((1, 3)))
        with pytest.raises(openmm.OpenMMException):
            context.getState(energy=True)
        with pytest.raises(type(interruption(number))) as stop:
            raise_again()
        assert getattr(stop.value, "number", signal.SIGINT) == number
    with stop_at_once():
        raise_again()  # of the next command nothing has come


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_ignored_signals_stay_ignored(number: int) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with Signals() as signals:
            signal.raise_signal(number)
        assert signals.received is None
    finally:
        signal.signal(number, before)


def test_a_closed_terminal_leaves_time_to_save(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    # The terminal of a session of its own, so that closing it sends SIGHUP.
    code = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n" + WORKER
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=tmp_path,
        start_new_session=True,
    )
    os.close(slave)
    deadline = time.monotonic() + 30
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.close(master)
    assert process.wait(timeout=30) == 0
    assert (tmp_path / "saved").read_text() == str(int(signal.SIGHUP))
