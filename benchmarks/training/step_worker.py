"""A process that makes training steps of one network and times them when told so.

    python step_worker.py '{"network": "mace", "task": "forces", ...}'

It answers on stdout with one JSON object a line: first what it has made, then, for each
line on stdin, a round.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE), *(str(HERE.parent / name) for name in ("accuracy", "speed"))]

import torch  # noqa: E402
from answers import answers_on_stdout  # noqa: E402
from networks import NETWORKS, Job, read_batch, training_step  # noqa: E402

from openmm_se3.benchmark.machine import peak_memory, reset_peak_memory  # noqa: E402
from openmm_se3.benchmark.timing import timed  # noqa: E402
from openmm_se3.malloc import keep_freed_memory  # noqa: E402

FIRST_STEPS = 2  # packages compile, the optimizer makes its moments


def main() -> None:
    """Serve until stdin is closed."""
    answer = answers_on_stdout()
    job = Job(**json.loads(sys.argv[1]))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    batch = read_batch(job.batch, job.molecules)
    network, predict = NETWORKS[job.network].make(batch, job)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    held = reset_peak_memory()

    def make_steps(steps: int) -> None:
        for _ in range(steps):
            training_step(network, predict, batch)
            optimizer.step()

    make_steps(FIRST_STEPS)
    steps = max(1, round(job.seconds / timed(make_steps, 1).seconds))
    weights = sum(p.numel() for p in network.parameters())
    answer({"parameters": weights, "steps": steps})
    for _ in sys.stdin:
        measured = dataclasses.asdict(timed(make_steps, steps))
        answer({**measured, "peak_memory_mib": peak_memory() - held})


if __name__ == "__main__":
    main()
