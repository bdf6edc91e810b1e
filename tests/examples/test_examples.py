"""Every example runs, in its short mode."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import openmm
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


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(
    example: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(example), "--quick"])
    # As users run them; `organic` is compiled for no other test.
    if "organic" not in example.read_text():
        monkeypatch.setenv("OPENMM_SE3_IMPLEMENTATION", "auto")
    runpy.run_path(str(example), run_name="__main__")
    printed, files = SHOWN[example.name[:2]]
    shown = capsys.readouterr().out
    assert re.search(printed, shown, re.DOTALL), shown
    for name in files:
        assert (tmp_path / name).stat().st_size > 0


def test_the_lines_of_the_readme_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The System that they make is read back in a process of its own."""
    monkeypatch.chdir(tmp_path)
    readme = (REPOSITORY / "README.md").read_text()
    text = " ".join(readme.split())  # wherever its lines end
    assert f"in the folder `{WaterRunOptions.out}`" in text
    (lines,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    pytest.importorskip("rdkit")
    assert "simulation.step(1000)" in lines
    short = lines.replace("step(1000)", "step(10)")
    read = (
        "import openmm\n"
        "import openmm_se3\n"
        "openmm_se3.register_plugins()\n"
        "system = openmm.XmlSerializer.deserialize(open('system.xml').read())\n"
        "context = openmm.Context(system, openmm.VerletIntegrator(0.001))\n"
    )
    assert "after `openmm_se3.register_plugins()`" in text
    made: dict[str, Any] = {}
    exec(compile(short, "README.md", "exec"), made)
    xml = openmm.XmlSerializer.serialize(made["system"])
    (tmp_path / "system.xml").write_text(xml)
    done = subprocess.run(
        [sys.executable, "-c", read], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_is_short(example: Path) -> None:
    assert len(example.read_text().splitlines()) < 80
