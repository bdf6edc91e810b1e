"""Steps of TorchScript use the memory of the step before."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from random_model import topology_of, water_cluster, write_random_weights

from openmm_se3 import SE3Potential
from openmm_se3.benchmark.timing import Stepper
from openmm_se3.malloc import VARIABLES

STEPS = 5


def faults_of_a_step(folder: str) -> float:
    """Return the page faults of a step of eight molecules."""
    species, positions = water_cluster(8)
    topology = topology_of(["HO"[i] for i in species.tolist()])
    potential = SE3Potential(folder, implementation="torchscript")
    stepper = Stepper(potential.createSystem(topology), positions.numpy(), "Reference")
    stepper.step(STEPS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    stepper.step(STEPS)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / STEPS


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_a_step_asks_the_system_for_no_memory(tmp_path: Path) -> None:
    folder = write_random_weights(tmp_path / "model", channels=16, heads=2)
    own = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    own["PYTHONPATH"] = os.pathsep.join(sys.path)
    found = {}
    for name, variables in {
        "ours": own,
        # What a user has set is left alone.
        "user's": {**own, "MALLOC_TRIM_THRESHOLD_": str(1 << 17)},
    }.items():
        command = [sys.executable, __file__, str(folder)]
        done = subprocess.run(
            command, env=variables, check=True, capture_output=True, text=True
        )
        found[name] = float(done.stdout)
    assert found["ours"] < 300 < 1000 < found["user's"]


if __name__ == "__main__":
    print(faults_of_a_step(sys.argv[1]))
