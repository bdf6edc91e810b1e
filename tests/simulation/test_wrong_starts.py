"""Wrong options and starts, and interrupted runs."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import harmonic_runs
import numpy as np
import openmm
import pytest
from analytic_water import harmonic_water, water_positions
from harmonic_runs import run
from openmm import app, unit
from rich.console import Console

from openmm_se3.analysis import analyze_folder, read_folder, verdict
from openmm_se3.geometry import closest_contact, in_angstrom, molecules_of
from openmm_se3.simulation import (
    FolderInUseError,
    RunOptions,
    WaterRunOptions,
    minimum,
    run_dynamics,
    water_topology,
)
from openmm_se3.simulation import folder as names
from openmm_se3.simulation.folder import RunFolder, was_cut_short
from openmm_se3.simulation.minimum import (
    BadMinimumError,
    minimized,
    torn_bond,
)
from openmm_se3.simulation.progress import ProgressReporter
from openmm_se3.simulation.small_molecule import molecule_topology

HELPERS = Path(harmonic_runs.__file__).parent


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    out = tmp_path / "a"
    run(out, steps=40)
    (out / "notes.txt").write_text("mine")
    before = (out / names.TRAJECTORY).read_bytes()
    with pytest.raises(FolderInUseError, match="--overwrite"):
        run(out, steps=80)
    assert (out / names.TRAJECTORY).read_bytes() == before
    run(out, steps=80, overwrite=True)
    assert len(np.load(out / names.VELOCITIES)) == 20
    assert (out / "notes.txt").read_text() == "mine"


def test_a_failing_start_keeps_the_old_results(tmp_path: Path) -> None:
    out = tmp_path / "a"
    run(out, steps=40)
    system, topology = harmonic_water()
    options = RunOptions(seed=1, out=out, overwrite=True, platform="Reference")
    with pytest.raises(ValueError, match="cannot be minimized"):
        run_dynamics(system, topology, np.zeros((3, 3)), options)
    assert len(np.load(out / names.VELOCITIES)) == 10


def test_a_start_that_the_minimizer_tears_apart_is_refused(tmp_path: Path) -> None:
    system, topology = harmonic_water()
    repulsion = openmm.CustomBondForce("-1e5*r")  # stronger than the bond
    repulsion.addBond(0, 1)
    system.addForce(repulsion)
    options = RunOptions(seed=1, out=tmp_path / "a", platform="Reference")
    with pytest.raises(BadMinimumError, match="tore a molecule.* bond of O and H"):
        run_dynamics(system, topology, water_positions(1, 1), options)
    assert not (tmp_path / "a" / names.TRAJECTORY).exists()


def test_a_minimization_keeps_to_the_valley_of_the_start(tmp_path: Path) -> None:
    """OpenMM's minimizer jumps over the barrier to the lower end of this bond."""
    system = openmm.System()
    for _ in range(2):
        system.addParticle(16.0)
    bond = openmm.CustomBondForce("5e4*(r-0.145)^2*exp(-(r-0.145)/0.05) - 500*r")
    bond.addBond(0, 1)
    system.addForce(bond)
    topology = molecule_topology(["O", "O"], [(0, 1, None, None)])
    start = np.array([[0.0, 0.0, 0.0], [1.45, 0.0, 0.0]])
    integrator = openmm.VerletIntegrator(0.001)
    platform = openmm.Platform.getPlatformByName("Reference")
    simulation = app.Simulation(topology, system, integrator, platform)
    simulation.context.setPositions(start * unit.angstrom)
    simulation.minimizeEnergy()
    far = in_angstrom(
        simulation.context.getState(positions=True).getPositions(asNumpy=True)
    )
    assert torn_bond(topology, start, far) is not None
    found = minimized(simulation, start)
    assert torn_bond(topology, start, found) is None
    forces = simulation.context.getState(forces=True).getForces(asNumpy=True)._value
    assert np.abs(forces).max() < 1.0


def test_a_start_whose_molecules_fuse_is_refused(tmp_path: Path) -> None:
    system, topology = harmonic_water(2)
    attraction = openmm.CustomBondForce("1e6*(r-0.12)^2")  # kJ/mol, nm
    attraction.addBond(0, 3)
    system.addForce(attraction)
    options = RunOptions(seed=1, out=tmp_path / "a", platform="Reference")
    with pytest.raises(BadMinimumError, match="are fused: .* below the limit"):
        run_dynamics(system, topology, water_positions(2, 1), options)


def test_a_crowded_start_is_named_where_the_minimization_fails(tmp_path: Path) -> None:
    system, topology = harmonic_water(2)
    repulsion = openmm.CustomBondForce("-1e5*r")
    repulsion.addBond(0, 1)
    system.addForce(repulsion)
    options = RunOptions(seed=1, out=tmp_path / "a", platform="Reference")
    apart = water_positions(2, 1)
    with pytest.raises(BadMinimumError, match="training data") as far:
        run_dynamics(system, topology, apart, options)
    crowded = apart.copy()
    crowded[3:] += water_positions(1)[2] + [-0.5, 0.0, 1.2] - crowded[3]
    with pytest.raises(BadMinimumError, match=r"O of HOH 2.*A box of water") as near:
        run_dynamics(system, topology, crowded, options)
    assert "A box of water" not in str(far.value)
    assert "of HOH 1" in str(near.value)


def test_a_long_minimization_shows_its_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, topology = harmonic_water(2)
    options = RunOptions(
        seed=1, out=tmp_path / "a", platform="Reference", steps=10, equilibration_ps=0.0
    )
    shown = {}
    for seconds in (0.0, 1e6):
        monkeypatch.setattr(minimum, "SHOWN_SECONDS", seconds)
        console = Console(file=io.StringIO(), width=200)
        out = dataclasses.replace(options, out=tmp_path / str(seconds))
        run_dynamics(system, topology, water_positions(2, 1), out, console=console)
        shown[seconds] = console.file.getvalue()
    assert re.search(r"iteration \d+ of at most 2000, energy .* left", shown[0.0])
    assert "iteration" not in shown[1e6]


def test_contacts_between_molecules_and_inside_them() -> None:
    topology = water_topology(2)
    symbols = ["O", "H", "H"] * 2
    molecules = molecules_of(topology)
    assert molecules.tolist() == [molecules[0]] * 3 + [molecules[3]] * 3
    assert molecules[0] != molecules[3]
    water = water_positions(1)
    for distance, fused in ((1.5, True), (1.7, False)):
        # The hydrogens of both point away from each other.
        up = water - water[0]
        up = up if up[1:, 2].sum() > 0.0 else -up
        x = np.concatenate([-up, up + [0.0, 0.0, distance]])
        found = closest_contact(symbols, x, None, molecules=molecules)
        assert (found is not None) == fused
        assert closest_contact(symbols, x, None) is None
    # Atoms without bonds, and metals, may stand as near as they like.
    ions = app.Topology()
    residue = ions.addResidue("X", ions.addChain())
    atoms = [ions.addAtom(s, app.Element.getBySymbol(s), residue) for s in ("Zn", "N")]
    assert molecules_of(ions).tolist() == [-1, -1]
    ions.addBond(*atoms)
    assert molecules_of(ions)[0] == -1 != molecules_of(ions)[1]


def test_two_runs_cannot_share_a_folder(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "a"):
        with pytest.raises(FolderInUseError, match=f"process {os.getpid()} on"):
            run(tmp_path / "a", steps=40)
    with RunFolder(tmp_path / "a"):
        pass


def test_a_killed_run_leaves_readable_files_and_no_lock(tmp_path: Path) -> None:
    out = tmp_path / "a"
    code = (
        f"import sys; sys.path.insert(0, {str(HELPERS)!r})\n"
        "from pathlib import Path\n"
        "from harmonic_runs import run\n"
        f"run(Path({str(out)!r}), steps=10**7)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    log, start = out / names.LOG, time.monotonic()
    while not (log.exists() and log.stat().st_size > 20_000):
        assert process.poll() is None
        assert time.monotonic() - start < 120.0
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    recording = read_folder(out)
    assert recording.trajectory.n_frames > 1000
    assert recording.velocities is not None
    assert len(recording.velocities) == recording.trajectory.n_frames
    assert len(recording.log["step"]) > 200
    assert "killed" in recording.missing[0]
    run(out, steps=40, overwrite=True)


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (KeyboardInterrupt(), "interrupted", "Ctrl-C"),
        (OSError("disk full"), "failed", "OSError: disk full"),
        (MemoryError(), "failed", "MemoryError"),
    ],
)
def test_an_interrupted_run_leaves_readable_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: str,
    reason: str,
) -> None:
    def interrupt(
        self: ProgressReporter, simulation: app.Simulation, state: openmm.State
    ) -> None:
        if simulation.currentStep > 500:
            raise error

    monkeypatch.setattr(ProgressReporter, "report", interrupt)
    with pytest.raises(type(error)):
        run(tmp_path / "a", steps=2000, equilibration_ps=0.0)
    recording = read_folder(tmp_path / "a")
    assert recording.run["status"] == status
    assert recording.run["reason"] == reason
    assert recording.run["steps"] == 504
    assert was_cut_short(tmp_path / "a") is (status == "interrupted")
    text = f"STABLE for 0.252 of 1 ps ({status})"
    assert text in verdict(analyze_folder(tmp_path / "a"))
    report = (tmp_path / "a" / names.REPORT).read_text()
    assert text in report
    assert f"| Ended early | {status}: {reason} |" in report
    assert recording.trajectory.n_frames == 126
    assert (tmp_path / "a" / names.LAST_GOOD_STATE).exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dt_fs": -0.5}, "dt_fs is -0.5"),
        ({"dt_fs": float("nan")}, "dt_fs is nan"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"steps": 0}, "steps is 0"),
        ({"ensemble": "npt"}, "ensemble is 'npt'"),
        ({"ensemble": "nph"}, "ensemble is 'nph'"),
        ({"thermostat": "none"}, "thermostat is 'none'"),
        ({"trajectory": "pdb"}, "trajectory is 'pdb'"),
        ({"pressure_bar": float("nan")}, "pressure_bar is nan"),
        ({"checkpoint_ps": 0.0}, "checkpoint_ps is 0.0"),
        ({"overwrite": True, "resume": True}, "exclude each other"),
        ({"precision": "half"}, "precision is 'half'"),
        ({"equilibration_ps": -1.0}, "equilibration_ps is -1.0"),
        ({"seed": 0}, "seed is 0"),
        ({"molecules": 0}, "molecules is 0"),
    ],
)
def test_bad_options_are_refused_by_name(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        WaterRunOptions(**options)  # type: ignore[arg-type]


def test_bad_starts_are_refused(tmp_path: Path) -> None:
    system, topology = harmonic_water()
    options = RunOptions(seed=1, out=tmp_path / "a", platform="Reference")
    with pytest.raises(ValueError, match="must agree"):
        run_dynamics(system, topology, np.zeros((4, 3)), options)
    with pytest.raises(ValueError, match="atom 1 is not a finite number"):
        start = water_positions(1)
        start[1, 0] = np.nan
        run_dynamics(system, topology, start, options)
    assert not (tmp_path / "a").exists()


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_nothing_is_left_of_a_run_interrupted_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr("openmm_se3.simulation.run.minimized", interrupt)
    for name in ("mine", "new"):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / name, steps=40)
        assert not was_cut_short(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_run_without_production_was_not_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole", steps=40)
    assert not was_cut_short(tmp_path / "whole")
    monkeypatch.setattr(ProgressReporter, "report", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "equilibration", steps=40)
    assert read_folder(tmp_path / "equilibration").run["status"] == "interrupted"
    assert not was_cut_short(tmp_path / "equilibration")
    with pytest.raises(ValueError, match="no frames to judge.*before its production"):
        analyze_folder(tmp_path / "equilibration")
