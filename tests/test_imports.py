"""What every worker process pays for: imports of training and of forces."""

from __future__ import annotations

import subprocess
import sys

# Each takes a tenth of a second or more, and serves analysis or labels only.
SLOW = (
    *("matplotlib", "mdtraj", "pyscf", "rdkit", "tensorboard"),
    *("scipy.optimize", "scipy.signal", "scipy.stats"),
)


def test_training_and_forces_import_nothing_slow() -> None:
    code = (
        "import sys, warnings\n"
        # Lightning Fabric imports it where it is installed, with matplotlib.
        "sys.modules['torchmetrics'] = None\n"
        "warnings.simplefilter('ignore')\n"
        "import openmm_se3.training.run, openmm_se3.force.potential\n"
        "import openmm_se3.active_learning\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "lightning_fabric" in loaded and "openmm" in loaded
    assert loaded.isdisjoint(SLOW), loaded.intersection(SLOW)
