"""Every example runs, in its short mode."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from openmm_se3.simulation import WaterRunOptions

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = sorted((REPOSITORY / "examples").glob("[0-9]*.py"))


# What each prints, and the files that it leaves.
SHOWN = {
    "01": (r"Model of wb97x/6-31g\*.* 0\.10 ps  model energy", []),
    "02": (r"STABLE for 0\.5 ps", ["water-example/figure.png"]),
    "03": (r"Hydrogen bonded in \d+ % of the frames", ["dimer-example/trajectory.dcd"]),
    "04": (r"(5 A is \d\.\d\d kcal/mol above.*){2}without bias", ["free-energy.png"]),
    "05": (r"0\.1 ps; lowest at phi -?\d+, psi -?\d+ degrees", ["ramachandran.png"]),
    "06": (r"CH4O: -?\d+\.\d+ eV.* 3[89]\d\d\nzero-point energy 1\.[34]", []),
}


def test_every_example_is_known() -> None:
    assert [example.name[:2] for example in EXAMPLES] == [*SHOWN]


def run_python(
    *arguments: str, cwd: Path, implementation: str = "torchscript"
) -> subprocess.CompletedProcess[str]:
    # The package is found whether or not it is installed, from any working directory.
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
            "OPENMM_SE3_IMPLEMENTATION": implementation,
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(example: Path, tmp_path: Path) -> None:
    # As users run them; `organic` is compiled for no other test.
    uses_organic = "organic" in example.read_text()
    implementation = "torchscript" if uses_organic else "auto"
    done = run_python(
        str(example), "--quick", cwd=tmp_path, implementation=implementation
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed, files = SHOWN[example.name[:2]]
    assert re.search(printed, done.stdout, re.DOTALL), done.stdout
    for name in files:
        assert (tmp_path / name).stat().st_size > 0


def test_the_lines_of_the_readme_run(tmp_path: Path) -> None:
    readme = (REPOSITORY / "README.md").read_text()
    assert f"in the folder `{WaterRunOptions.out}`" in readme
    (lines,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    pytest.importorskip("rdkit")
    assert "simulation.step(1000)" in lines
    short = lines.replace("step(1000)", "step(10)")
    write = (
        "import openmm\n"
        "open('system.xml', 'w').write(openmm.XmlSerializer.serialize(system))\n"
    )
    read = (
        "import openmm\n"
        "import openmm_se3\n"
        "openmm_se3.register_plugins()\n"
        "system = openmm.XmlSerializer.deserialize(open('system.xml').read())\n"
        "context = openmm.Context(system, openmm.VerletIntegrator(0.001))\n"
    )
    assert "after `openmm_se3.register_plugins()`" in readme
    for code in (short + write, read):
        done = run_python("-c", code, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_is_short(example: Path) -> None:
    assert len(example.read_text().splitlines()) < 80
