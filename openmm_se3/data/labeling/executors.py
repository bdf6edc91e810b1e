"""One interface for running independent tasks on many processes.

:class:`LocalExecutor` uses processes of this machine, :class:`DaskExecutor` the workers
of a Dask scheduler, on as many machines as these are, :class:`SerialExecutor` none.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, Protocol

from openmm_se3.signals import STOPPING

# Several single-threaded workers beat one process with several threads at the sizes of
# small molecules, and leave no more runnable threads than there are cores.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}

WAKE_UP = 1.0  # s, between looks at signals
CONNECT_SECONDS = 20  # for a scheduler and its first worker to answer


class WorkerDiedError(RuntimeError):
    """A worker process ended without a result."""


class Executor(Protocol):
    """Runs one function over many tasks, in any order."""

    def run(
        self, function: Callable[[Any], Any], tasks: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        """Yield (index of the task, result) as tasks finish.

        The function and the tasks must be picklable.  An exception of the function is
        raised here.
        """
        ...


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class LocalExecutor:
    """Runs tasks in worker processes of this machine, one thread each.

    A script that uses it needs the usual ``if __name__ == "__main__":``, because
    workers import the script again.

    Args:
        workers: Number of processes; by default one per core.

    Raises:
        ValueError: ``workers`` is less than one.
    """

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self.workers = workers or available_cores()

    def run(
        self, function: Callable[[Any], Any], tasks: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        """Yield (index of the task, result) as tasks finish.

        When the caller stops, by an exception, Ctrl-C or a kill, the workers end too.

        Raises:
            WorkerDiedError: A worker was killed; all finished results were yielded.
        """
        # "spawn", because a fork of a process with OpenMP threads can deadlock.
        context = multiprocessing.get_context("spawn")
        # Only this process holds the writing end, so that workers see the end of the
        # pipe when it is closed here and also when this process is killed.
        stop_reader, stop_writer = context.Pipe(duplex=False)
        scratch = tempfile.mkdtemp(
            prefix="openmm-se3-", dir=os.environ.get("PYSCF_TMPDIR")
        )
        workers = max(1, min(self.workers, len(tasks)))
        pool = ProcessPoolExecutor(
            workers, context, _start_worker, (stop_reader, scratch)
        )
        broken: BrokenProcessPool | None = None
        complete = False
        # The variables must be set before a worker loads its numerical libraries.
        with _environment(ONE_THREAD):
            try:
                futures = {pool.submit(function, x): i for i, x in enumerate(tasks)}
                for future in _as_completed(futures):
                    try:
                        result = future.result()
                    except BrokenProcessPool as error:
                        broken = error
                    else:
                        yield futures[future], result
                complete = broken is None
            finally:
                if not complete:
                    stop_writer.close()
                pool.shutdown(cancel_futures=True)
                stop_writer.close()
                stop_reader.close()
                shutil.rmtree(scratch, ignore_errors=True)
        if broken is not None:
            raise WorkerDiedError(
                "a worker process was killed from outside; when the machine ran out of "
                f"memory, fewer workers than {workers} help"
            ) from broken


def _as_completed(futures: Mapping[Future[Any], int]) -> Iterator[Future[Any]]:
    """Yield futures as they finish; Ctrl-C ends the wait within a second.

    RDKit puts Python's handler of Ctrl-C back with SA_RESTART, after which a signal
    does not interrupt a wait without a timeout.

    Args:
        futures: Number of each; those that finish together come in this order.
    """
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, WAKE_UP, FIRST_COMPLETED)
        yield from sorted(done, key=futures.__getitem__)


class SerialExecutor:
    """Runs tasks one after another in this process.

    For tasks so short that starting worker processes would take longer.
    """

    def run(
        self, function: Callable[[Any], Any], tasks: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        """Yield (index of the task, result), in order."""
        for index, task in enumerate(tasks):
            yield index, function(task)


class DaskExecutor:
    """Runs tasks on the workers of a Dask scheduler.

    Workers need this package with the extra ``dft``, one thread each and
    ``OMP_NUM_THREADS=1``: ``dask worker ADDRESS --nthreads 1``.

    Args:
        address: Address of the scheduler, such as ``tcp://host:8786``.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def run(
        self, function: Callable[[Any], Any], tasks: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        """Yield (index of the task, result) as tasks finish.

        A task whose worker is lost goes to another one.  When the caller stops, tasks
        that have not begun are taken back.

        Raises:
            WorkerDiedError: There is no scheduler or no worker there, a worker cannot
                import the function, or a task took several workers with it; all
                finished results were yielded.
        """
        from distributed import Client, KilledWorker, as_completed

        try:
            client = Client(self.address, timeout=CONNECT_SECONDS)
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except (OSError, TimeoutError, ValueError) as error:
            raise WorkerDiedError(
                f"no Dask scheduler with workers at {self.address}: {error}; start "
                "them with 'dask scheduler' and 'dask worker ADDRESS --nthreads 1'"
            ) from error
        with client:
            try:  # a worker that cannot read a task is lost, and Dask waits for it
                client.run(exec, f"import {function.__module__}")
            except ImportError as error:
                raise WorkerDiedError(
                    f"the Dask workers at {self.address} cannot import "
                    f"{function.__module__}: {error}; install the same packages there"
                ) from error
            # Not pure: the journal knows what has been computed before, not Dask.
            futures = client.map(function, tasks, pure=False)
            index = {future.key: i for i, future in enumerate(futures)}
            try:
                for future in as_completed(futures):
                    try:
                        result = future.result()
                    except KilledWorker as error:
                        raise WorkerDiedError(
                            f"several workers died at the same task ({error}); if "
                            "memory ran out, start fewer on a machine"
                        ) from error
                    yield index[future.key], result
                    future.release()
            finally:
                client.cancel(futures)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start_worker(stop: Connection, scratch: str) -> None:
    """Prepare a worker process.

    Args:
        stop: Pipe whose end tells the worker to leave.
        scratch: Folder for temporary files, which a killed worker cannot remove itself.
    """
    # Ctrl-C reaches every process of a terminal, other signals every process of a job;
    # only the first process decides.  SIGTERM is how it ends a worker.
    for number in STOPPING:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    tempfile.tempdir = scratch
    os.environ["TMPDIR"] = os.environ["PYSCF_TMPDIR"] = scratch
    threading.Thread(target=_leave, args=(stop, scratch), daemon=True).start()


def _leave(stop: Connection, scratch: str) -> None:
    with contextlib.suppress(EOFError, OSError):
        stop.recv_bytes()
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(1)
