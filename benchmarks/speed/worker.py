"""A process that makes steps of one contender and times them when told so.

    python worker.py '{"contender": "mace", "atoms": 3, ...}'

It answers on stdout with one JSON object a line: first what it has made, or that the
memory does not suffice for it; then, for each line on stdin, a round.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE.parent), str(HERE.parent / "accuracy")]

import torch  # noqa: E402
from answers import answers_on_stdout  # noqa: E402
from contenders import CONTENDERS  # noqa: E402
from job import Job  # noqa: E402

from openmm_se3.benchmark.machine import peak_memory  # noqa: E402
from openmm_se3.benchmark.timing import timed, warm_up  # noqa: E402


def main() -> None:
    """Serve until stdin is closed."""
    answer = answers_on_stdout()
    job = Job(**json.loads(sys.argv[1]))
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    contender = CONTENDERS[job.contender]
    try:
        step, facts = contender.make(*job.structure(), job)
    except MemoryError:
        answer({"over": "over the memory there is"})
        return
    steps = warm_up(step, job.seconds, contender.first_steps)
    answer({**facts, "steps": steps})
    for _ in sys.stdin:
        measured = timed(step, steps)
        answer({**dataclasses.asdict(measured), "peak_memory_mib": peak_memory()})


if __name__ == "__main__":
    main()
