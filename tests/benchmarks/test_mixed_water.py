"""The benchmarks of mixed Systems and of long dynamics."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import force_drift
import long_dynamics
import mdtraj
import mixed_water
import numpy as np
import openmm
import pytest
from analytic_water import harmonic_water
from click.testing import CliRunner
from matplotlib.figure import Figure
from openmm import app

from openmm_se3.force.mixed import without_internal_terms


def test_drift_of_a_known_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3 kJ/mol/ps over 24 degrees of freedom; kT is 2.494 kJ/mol at 300 K."""
    time = 0.012 * np.arange(1, 401)
    noise = np.random.default_rng(0).normal(scale=0.01, size=400)
    log = {
        "time_ps": time,
        "total_kj_per_mol": -900.0 + 3.0 * time + noise,
        "temperature_k": np.full(400, 290.0),
        "shadow_kj_per_mol": np.full(400, np.nan),
    }
    recording = SimpleNamespace(log=log, run={"degrees_of_freedom": 24, "reason": ""})
    monkeypatch.setattr(force_drift, "read_folder", lambda folder: recording)
    row = tmp_path / force_drift.ROW
    row.write_text(json.dumps({"no_start": None}))
    found = force_drift.measured(tmp_path)
    slope = 3.0 / (2.494339 * 24)
    assert found["drift"] == pytest.approx(1000.0 * slope, rel=1e-3)
    assert found["energy"][-1] == pytest.approx(slope * 4.788, abs=1e-3)
    assert found["line"][-1] == pytest.approx(found["energy"][-1], abs=1e-3)
    assert force_drift.drift_text(found).startswith("+50.1")
    recording.log = {}  # stopped before its first row
    assert "too early" in force_drift.drift_text(force_drift.measured(tmp_path))
    row.write_text(json.dumps({"no_start": "a molecule was torn apart"}))
    assert force_drift.measured(tmp_path)["reason"] == "a molecule was torn apart"


class AnalyticMolecule:
    """Stands for SE3Potential in a mixed System: springs in the place of the model."""

    metadata = {"weights_sha256": "a" * 64}

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def createSystem(self, topology: app.Topology) -> openmm.System:
        return harmonic_water(topology.getNumResidues())[0]

    def createMixedSystem(
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: list[int],
        forceGroup: int = 0,
    ) -> openmm.System:
        mixed = without_internal_terms(system, atoms)
        springs = openmm.HarmonicBondForce()
        for first, second, length in ((0, 1, 0.096), (0, 2, 0.096), (1, 2, 0.152)):
            springs.addBond(atoms[first], atoms[second], length, 2e5)
        springs.setForceGroup(forceGroup)
        springs.setUsesPeriodicBoundaryConditions(
            system.usesPeriodicBoundaryConditions()
        )
        mixed.addForce(springs)
        return mixed


def test_mixed_water_runs_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(mixed_water, "save", lambda path, figure: drawn.append(figure))
    monkeypatch.setattr(mixed_water, "SE3Potential", AnalyticMolecule)
    monkeypatch.setattr("openmm_se3.simulation.minimum.MINIMIZER_ITERATIONS", 100)
    arguments = ["--short", "--out", str(tmp_path)]
    first = CliRunner().invoke(mixed_water.main, arguments, catch_exceptions=False)
    assert first.exit_code == 0, first.output
    results = json.loads((tmp_path / "mixed_water.json").read_text())
    for region in ("model", "solvent"):
        found = results["forces"][region]
        assert found["largest_difference"] < 1e-5 < 0.1 < found["largest_force"]
    constraints = 3 * results["molecules"]
    for name, less in (("mixed", 3), ("TIP3P", 0)):
        run = results["nve"][name]
        assert run["status"] == results["npt"][name]["status"] == "completed"
        degrees = 9 * results["molecules"] - constraints + less - 3
        assert run["degrees_of_freedom"] == degrees
        # The energy swings by a share of what one degree of freedom has.
        assert 0.0 < run["fluctuation_kj_per_mol"] < 0.5 * 0.00831446 * 300.0
        assert math.isfinite(run["drift"]) and run["drift_error"] > 0.0
        assert 0.5 < results["npt"][name]["density"] < 1.2
        assert results["npt"][name]["oh"][0] == pytest.approx(0.96, abs=0.03)
    # The model's molecule is flexible, the other rigid.
    assert results["npt"]["mixed"]["oh"][1] > 1e-3 > results["npt"]["TIP3P"]["oh"][1]
    labels = [line.get_label() for line in drawn[0].axes[1].lines]
    assert labels == ["model to TIP3P", "TIP3P to TIP3P"]
    again = CliRunner().invoke(mixed_water.main, arguments, catch_exceptions=False)
    assert again.output.count("is complete") == 4


def test_density_and_radial_distribution_of_an_ideal_gas() -> None:
    rng = np.random.default_rng(0)
    n, edge = 200, 2.0  # nm
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    oxygen, hydrogen = (mdtraj.element.get_by_symbol(s) for s in "OH")
    for _ in range(n):
        residue = topology.add_residue("HOH", chain)
        for name, element in (("O", oxygen), ("H1", hydrogen), ("H2", hydrogen)):
            topology.add_atom(name, element, residue)
    molecule = np.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.1, 0.0]])
    places = rng.uniform(0.0, edge, size=(50, n, 1, 3))
    frames = mdtraj.Trajectory((places + molecule).reshape(50, 3 * n, 3), topology)
    frames.unitcell_lengths = np.full((50, 3), edge)
    frames.unitcell_angles = np.full((50, 3), 90.0)
    run = {"status": "completed", "reason": "", "time_ps": 1.0, "platform": "none"}
    recording = SimpleNamespace(
        trajectory=frames,
        log={"temperature_k": np.array([300.0])},
        run={**run, "masses": [15.999, 1.008, 1.008] * n},
    )
    found = mixed_water.of_npt(recording, of_all=True)
    # 200 * 18.015 g/mol / 6.02214e23 / 8e-21 mL
    assert found["density"] == pytest.approx(0.74787, abs=1e-4)
    assert found["oh"] == pytest.approx([1.0, 0.0], abs=1e-4)
    assert found["angle"] == pytest.approx([90.0, 0.0], abs=1e-2)
    assert np.mean(found["rdf"]["g"]) == pytest.approx(1.0, abs=0.05)
    for of_all, limit in ((True, 0.05), (False, 0.5)):
        r, g = mixed_water.radial_distribution(recording, of_all)
        assert r[-1] < 10.0 * edge / 2
        assert g[r > 4.0].mean() == pytest.approx(1.0, abs=limit)


@pytest.mark.parametrize(("dt", "code"), [(0.5, 0), (10.0, 1)])
def test_long_dynamics_tells_what_holds_from_what_breaks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dt: float, code: int
) -> None:
    monkeypatch.setattr(long_dynamics, "SE3Potential", AnalyticMolecule)
    monkeypatch.setattr(long_dynamics, "DT", dt)  # fs
    out = tmp_path / "long.json"
    result = CliRunner().invoke(
        long_dynamics.main, ["--short", "--out", str(out)], catch_exceptions=False
    )
    assert result.exit_code == code, result.output
    rows = json.loads(out.read_text())["rows"]
    assert [row["name"] for row in rows] == list(long_dynamics.RUNS)
    for row in rows:
        assert row["held"] == (code == 0)
        assert (0.0 < row["max_stretch"] < 0.5) == (code == 0)
        assert row["length_at_minimum"] == pytest.approx(0.96, abs=0.03)
        if code == 0:
            assert row["ps"] == pytest.approx(0.1)
            assert row["mean_length"] == pytest.approx(0.96, abs=0.05)
