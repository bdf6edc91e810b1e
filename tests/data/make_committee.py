"""Make monomers/: a committee of three networks that know single water molecules only.

The tests of uncertainties need members that were trained, not weights at random.  Run
it from the root of the repository, for a minute or two, as

    python tests/data/make_committee.py

The seeds are fixed; another processor gives weights that differ by rounding, which
training amplifies, so that no test may depend on more than their first digits.
"""

import subprocess
import tempfile
from pathlib import Path

import yaml

from openmm_se3.export import write_committee

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "models/water/data/water1.h5"
MEMBERS = 3
SETTINGS = {
    "model": {
        "elements": ["H", "O"],
        "cutoff": 5.0,
        "layers": 2,
        "channels": 8,
        "key_channels": 8,
        "heads": 2,
        "lmax": 1,
        "radial_width": 16,
        "self_interaction_width": 8,
    },
    "training": {
        "steps": 4000,
        "validate_every": 1000,
        "batch_size": 16,
        "learning_rate": 1.0e-2,
        "warmup_steps": 200,
        "ema_decay": 0.99,
        "energy_cap": 0.5,
        "threads": 1,
    },
    "data": {"files": [str(DATA)]},
}


def main() -> None:
    """Train the members and write what SE3Potential reads of their committee."""
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for seed in range(MEMBERS):
            training = {**SETTINGS["training"], "seed": seed}
            config = Path(folder) / f"{seed}.yaml"
            config.write_text(yaml.safe_dump({**SETTINGS, "training": training}))
            runs.append(Path(folder) / f"run{seed}")
            command = ["openmm-se3", "train", str(config)]
            subprocess.run([*command, "--out", str(runs[-1])], check=True)
        written = Path(folder) / "monomers"
        write_committee(runs, written, progress=print)
        (HERE / "monomers").mkdir(exist_ok=True)
        for name in ("config.json", "weights.safetensors"):
            (HERE / "monomers" / name).write_bytes((written / name).read_bytes())


if __name__ == "__main__":
    main()
