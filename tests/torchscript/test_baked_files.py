"""Files for the atoms of one topology."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from model_files import KJ_PER_MOL, description_of, write_pdb
from random_model import (
    WATER,
)

from openmm_se3 import SE3Potential, cli
from openmm_se3.export import export_topology
from openmm_se3.model_file import load_model

BARE = """
import json, sys
import torch, openmm, openmmtorch
results = []
for file in sys.argv[2:]:
    force = openmmtorch.TorchForce(file)
    force.setOutputsForces(True)
    system = openmm.System()
    system.addForce(force)
    positions = json.loads(sys.argv[1])
    for _ in positions:
        system.addParticle(1.0)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(positions)
    state = context.getState(getEnergy=True, getForces=True)
    forces = state.getForces(asNumpy=True)._value.tolist()
    results.append([state.getPotentialEnergy()._value, forces])
assert not any(name.startswith(("openmm_se3", "vesin")) for name in sys.modules)
print(json.dumps(results))
"""


def test_a_bare_torchforce_runs_a_baked_file(
    random_model: Path, tmp_path: Path
) -> None:
    tolerances = {"single": 5e-5, "double": 1e-9}
    pdb = write_pdb(tmp_path / "water.pdb", ["O", "H", "H", "H"], np.zeros((4, 3)))
    export = ["export", str(random_model), "--topology", str(pdb), "--precision"]
    outputs = {precision: tmp_path / f"{precision}.pt" for precision in tolerances}
    for precision, output in outputs.items():
        arguments = [*export, precision, "-o", str(output)]
        result = CliRunner().invoke(cli.main, arguments)
        assert result.exit_code == 0, result.output
        assert f'TorchForce("{output}")' in result.output
        for line in ("import torch", "from openmmtorch import TorchForce"):
            assert line in result.output
    again = CliRunner().invoke(cli.main, arguments)
    assert again.exit_code == 2
    assert "exists; --overwrite replaces it" in again.output

    positions = np.concatenate([WATER, [[0.3, -1.5, 0.4]]])
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    process = subprocess.run(
        [sys.executable, "-c", BARE, json.dumps((0.1 * positions).tolist())]
        + [str(output) for output in outputs.values()],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert process.returncode == 0, process.stderr
    results = json.loads(process.stdout.splitlines()[-1])
    for (precision, tolerance), (energy, forces) in zip(
        tolerances.items(), results, strict=True
    ):
        potential = SE3Potential(random_model, precision=precision)
        expected, forces_expected = potential.energy_and_forces([8, 1, 1, 1], positions)
        assert energy / KJ_PER_MOL == pytest.approx(expected, abs=tolerance)
        difference = np.array(forces) / (10.0 * KJ_PER_MOL) - forces_expected
        assert np.abs(difference).max() < tolerance
        # It says what it is, as every model file does.
        assert load_model(outputs[precision]).metadata == description_of(random_model)


def test_topologies_that_cannot_be_baked(exported_model: Path, tmp_path: Path) -> None:
    model = load_model(exported_model)
    output = tmp_path / "out.pt"
    foreign = write_pdb(tmp_path / "c.pdb", ["O", "C"], np.zeros((2, 3)))
    with pytest.raises(
        ValueError,
        match=r"holds \['C'\]; the model knows \['H', 'O'\]; "
        r"the first such atom is C\w* of MOL 1, serial number 2",
    ):
        export_topology(model, foreign, output)
    with pytest.raises(FileNotFoundError, match="no topology file"):
        export_topology(model, tmp_path / "none.pdb", output)
    boxed = write_pdb(tmp_path / "box.pdb", ["O"], np.zeros((1, 3)))
    boxed.write_text(
        "CRYST1   20.000   20.000   20.000  90.00  90.00  90.00 P 1\n"
        + boxed.read_text()
    )
    with pytest.raises(ValueError, match="has a box.*use SE3Potential.createSystem"):
        export_topology(model, boxed, output)
    garbage = tmp_path / "garbage.pdb"
    garbage.write_text("this is no PDB file\n")
    with pytest.raises(ValueError, match="garbage.pdb"):
        export_topology(model, garbage, output)
    xyz = tmp_path / "w.xyz"
    xyz.write_text("1\n\nO 0 0 0\n")
    with pytest.raises(ValueError, match=r"w\.xyz is not a PDB file, .* converted"):
        export_topology(model, xyz, output)
    xyz.with_suffix(".pdb").write_text("MODEL        1\nENDMDL\nEND\n")
    with pytest.raises(ValueError, match=r"w\.pdb holds no atoms: give a PDB file"):
        export_topology(model, xyz.with_suffix(".pdb"), output)
    assert not output.exists()
