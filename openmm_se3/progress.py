"""How far long work is, and the time left: a bar, or lines in a log file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# The speed is averaged over this time (s), because single tasks can take minutes.
SPEED_WINDOW = 600.0
# Without a terminal, such as in a log file, a line is written this often (s).
LINE_INTERVAL = 60.0

Update = Callable[[int, int], None]


@contextlib.contextmanager
def progress_bar(description: str, console: Console | None = None) -> Iterator[Update]:
    """Show the share that is done and the time left.

    Args:
        description: The work.
        console: Where it is shown; standard error by default.

    Yields:
        A function to call with the finished and the total work.  The first call sets
        where this sitting starts, so that earlier work is not taken for speed.
    """
    if console is None:
        console = Console(stderr=True, markup=False)
    if not console.is_terminal:
        yield _lines(description, console)
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=SPEED_WINDOW,
    ) as progress:
        task = progress.add_task(description, total=None)
        started = False

        def update(done: int, total: int) -> None:
            nonlocal started
            if started:
                progress.update(task, completed=done)
            else:
                progress.reset(task, total=total, completed=done)
            started = True

        yield update


def _lines(description: str, console: Console) -> Update:
    start = last = time.monotonic()
    first: int | None = None

    def update(done: int, total: int) -> None:
        nonlocal start, last, first
        now = time.monotonic()
        if first is None:
            start, first = now, done
        if done == first or (done < total and now - last < LINE_INTERVAL):
            return
        last = now
        left = (now - start) * (total - done) / (done - first)
        console.print(
            f"{description}: {100 * done / total:.0f} %, {left / 60:.1f} min left"
        )

    return update
