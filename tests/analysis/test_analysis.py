"""Analyses of trajectories whose answer is known."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import shutil
from pathlib import Path

import mdtraj
import numpy as np
import openmm
import pytest
from analytic_water import exact_wavenumbers, harmonic_water, water_positions
from click.testing import CliRunner
from openmm import app, unit
from rich.console import Console

from openmm_se3.analysis import (
    Recording,
    analyze,
    analyze_folder,
    cluster,
    conformations,
    geometry,
    judge,
    liquid,
    print_report,
    read_files,
    read_folder,
    spectrum,
    summary,
    verdict,
    verlet_corrected,
    write_results,
)
from openmm_se3.analysis.energies import energies
from openmm_se3.analysis.figure import draw
from openmm_se3.analysis.read import read_log
from openmm_se3.analysis.spectrum import (
    HIGHEST_VIBRATION,
    internal_velocities,
    nyquist,
)
from openmm_se3.cli import main
from openmm_se3.simulation import (
    RunOptions,
    run_dynamics,
    water_topology,
)
from openmm_se3.simulation import folder as names

SPEED_OF_LIGHT = 2.99792458e-5  # cm/fs
WATER = water_positions(1)  # O-H 0.9572 A, 104.52 degrees


def shifted(*offsets: tuple[float, float, float]) -> np.ndarray:
    """Return copies of one molecule at some places [n_atoms, 3], A."""
    return np.concatenate([WATER + np.array(offset) for offset in offsets])


def recording(frames: np.ndarray, reference: np.ndarray | None = None) -> Recording:
    """Return frames [n_frames, n_atoms, 3], A, 2 fs apart, as a recording."""
    topology = mdtraj.Topology.from_openmm(water_topology(frames.shape[1] // 3))
    return Recording(
        trajectory=mdtraj.Trajectory(frames / 10.0, topology),
        reference=frames[0] if reference is None else reference,
        times=0.002 * np.arange(1, len(frames) + 1),
        velocities=None,
        log={},
        run={},
        missing=(),
    )


def write_pdb(path: Path, positions: np.ndarray) -> Path:
    topology = water_topology(len(positions) // 3)
    with open(path, "w") as file:
        app.PDBFile.writeFile(topology, positions * unit.angstrom, file)
    return path


def write_dcd(path: Path, frames: np.ndarray) -> Path:
    with mdtraj.formats.DCDTrajectoryFile(str(path), "w") as file:
        file.write(frames.astype(np.float32))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a dimer."""
    out = tmp_path_factory.mktemp("run") / "dimer"
    system, topology = harmonic_water(2)
    options = RunOptions(
        out=out,
        seed=1,
        steps=4000,
        equilibration_ps=0.2,
        platform="Reference",
        temperature=100,
    )
    run_dynamics(system, topology, water_positions(2, 1), options)
    return out


# Geometry


def test_geometry_of_known_structures() -> None:
    found = geometry(recording(shifted((0, 0, 0), (3, 0, 0))[None]).trajectory)
    assert found is not None
    assert set(found.lengths) == {"O-H"} and set(found.angles) == {"H-O-H"}
    assert found.lengths["O-H"].shape == (1, 4) and not found.torsions
    assert np.abs(found.lengths["O-H"] - 0.9572).max() < 1e-6
    assert np.abs(found.angles["H-O-H"] - 104.52).max() < 1e-3


def hydrogen_bonded(distance: float, tilt: float) -> np.ndarray:
    """Return a dimer: O-O distance (A), angle between O-H and O-O (degrees)."""
    bond = WATER[1] / np.linalg.norm(WATER[1])
    across = np.array([0.0, 1.0, 0.0])  # out of the donor's plane
    angle = np.radians(tilt)
    direction = np.cos(angle) * bond + np.sin(angle) * across
    return np.concatenate([WATER, WATER + distance * direction])


@pytest.mark.parametrize(
    ("distance", "tilt", "bonds"),
    [(2.9, 0.0, 1), (2.9, 25.0, 1), (2.9, 35.0, 0), (3.45, 0.0, 1), (3.6, 0.0, 0)],
)
def test_hydrogen_bond_criterion(distance: float, tilt: float, bonds: int) -> None:
    dimer = hydrogen_bonded(distance, tilt)
    # By either hydrogen, and whichever molecule is the first.
    orders = ([0, 1, 2, 3, 4, 5], [0, 2, 1, 3, 4, 5], [3, 4, 5, 0, 1, 2])
    found = cluster(recording(dimer[np.array(orders)]).trajectory)
    assert found is not None
    assert found.bonds.tolist() == [bonds] * 3
    assert found.oo[0, 0] == pytest.approx(distance, abs=1e-5)
    assert found.nearest[0].tolist() == pytest.approx([distance] * 2, abs=1e-5)


def test_one_molecule_has_no_hydrogen_bonds() -> None:
    assert cluster(recording(WATER[None]).trajectory) is None


# Other molecules

# C-C-O and their hydrogens, A.
ETHANOL = np.array(
    [
        [0.901, -0.075, 0.014],
        [-0.584, -0.368, 0.056],
        [-1.306, 0.822, 0.34],
        [1.237, 0.351, 0.966],
        [1.128, 0.663, -0.762],
        [1.472, -0.985, -0.187],
        [-0.809, -1.098, 0.839],
        [-0.932, -0.77, -0.9],
        [-1.107, 1.461, -0.366],
    ]
)
ETHANOL_BONDS = [(0, 1), (1, 2), (0, 3), (0, 4), (0, 5), (1, 6), (1, 7), (2, 8)]


def ethanol_topology(n_molecules: int) -> app.Topology:
    """Return a topology of ethanol with its bonds."""
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(n_molecules):
        residue = topology.addResidue("EOH", chain)
        atoms = [
            topology.addAtom(f"{symbol}{i}", app.Element.getBySymbol(symbol), residue)
            for i, symbol in enumerate("CCOHHHHHH")
        ]
        for i, j in ETHANOL_BONDS:
            topology.addBond(atoms[i], atoms[j])
    return topology


def ethanol(frames: np.ndarray, reference: np.ndarray = ETHANOL) -> Recording:
    """Return frames [n_frames, 9 n_molecules, 3], A, of ethanol as a recording."""
    topology = mdtraj.Topology.from_openmm(ethanol_topology(frames.shape[1] // 9))
    trajectory = mdtraj.Trajectory(frames / 10.0, topology)
    empty = recording(WATER[None])
    return dataclasses.replace(
        empty, trajectory=trajectory, reference=reference, times=None
    )


def turned(angle: float) -> np.ndarray:
    """Return ethanol with its hydroxyl hydrogen turned about C-O by degrees."""
    axis = ETHANOL[2] - ETHANOL[1]
    axis = axis / np.linalg.norm(axis)
    x, phi = ETHANOL[8] - ETHANOL[2], np.radians(angle)
    x = (
        x * np.cos(phi)
        + np.cross(axis, x) * np.sin(phi)
        + axis * (axis @ x) * (1.0 - np.cos(phi))
    )
    return np.concatenate([ETHANOL[:8], [ETHANOL[2] + x]])


def test_geometry_of_any_molecule_by_type() -> None:
    found = geometry(ethanol(np.stack([ETHANOL, turned(120.0)])).trajectory)
    assert found is not None
    lengths = {name: values.shape for name, values in found.lengths.items()}
    assert lengths == {"C-C": (2, 1), "C-H": (2, 5), "C-O": (2, 1), "O-H": (2, 1)}
    assert found.lengths["C-C"][0, 0] == pytest.approx(
        np.linalg.norm(ETHANOL[0] - ETHANOL[1]), abs=1e-5
    )
    angles = {name: values.shape[1] for name, values in found.angles.items()}
    assert angles == {"C-C-H": 5, "C-C-O": 1, "H-C-H": 4, "O-C-H": 2, "C-O-H": 1}
    assert set(found.torsions) == {"C-C-O-H", "O-C-C-H"}
    assert found.torsions["C-C-O-H"][:, 0] == pytest.approx([59.8, 179.8], abs=0.1)


def test_conformations_are_shares() -> None:
    values = np.array([[-179.0, 180.0, -65.0, 61.0], [29.0, -120.0, np.nan, 60.0]])
    found = conformations(values)
    assert found == {
        "syn": pytest.approx(1 / 7),
        "gauche": pytest.approx(3 / 7),
        "anticlinal": pytest.approx(1 / 7),
        "trans": pytest.approx(2 / 7),
    }


def test_a_report_of_any_molecule(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    frames = np.stack([turned(angle) for angle in np.linspace(0.0, 240.0, 50)])
    analysis = analyze(ethanol(frames + rng.normal(scale=0.01, size=frames.shape)))
    assert analysis.stability.stable
    assert analysis.formulas == {"C2H6O": 1}
    assert not [line for line in analysis.missing if "geometry" in line]
    found = summary(analysis)
    assert found["molecules"] == 1
    assert found["lengths_angstrom"]["C-C"]["mean"] == pytest.approx(1.51, abs=0.01)
    assert found["angles_degrees"]["C-C-O"]["mean"] == pytest.approx(108.0, abs=2.0)
    shares = found["torsions"]["C-C-O-H"]
    assert sum(shares.values()) == pytest.approx(1.0) and shares["trans"] > 0.1
    write_results(analysis, tmp_path)
    report = (tmp_path / names.REPORT).read_text()
    for word in ("C-C length", "C-C-O angle", "C-C-O-H torsion", "gauche"):
        assert word in report
    titles = {axis.get_title() for axis in draw(analysis).axes}
    assert len([title for title in titles if "distribution" in title]) == 3


def test_an_alcohol_that_loses_its_hydrogen_is_unstable() -> None:
    direction = (ETHANOL[8] - ETHANOL[2]) / np.linalg.norm(ETHANOL[8] - ETHANOL[2])
    pair = np.concatenate([ETHANOL, ETHANOL + 20.0])
    frames = np.repeat(pair[None], 20, axis=0)
    # 1.30 A long, which is no broken bond; the oxygen of the other one is 1.10 A away.
    frames[12:, 8] = ETHANOL[2] + 1.30 * direction
    frames[15:, 9:] += frames[15, 8] + 1.10 * direction - frames[15, 11]
    judged = judge(ethanol(frames, pair))
    assert not judged.stable and judged.frames == 15
    assert "EOH1-H8" in judged.reason and "EOH2-O2" in judged.reason
    assert "from its own oxygen" in judged.reason


@pytest.mark.parametrize(("bond", "factor"), [(0, 1.8), (1, 0.5), (2, 1.4), (7, 0.8)])
def test_an_unrelaxed_reference_of_any_molecule_is_refused(
    bond: int, factor: float
) -> None:
    i, j = ETHANOL_BONDS[bond]
    reference = ETHANOL.copy()
    reference[j] = ETHANOL[i] + factor * (ETHANOL[j] - ETHANOL[i])
    with pytest.raises(ValueError, match=f"atoms {i} and {j}"):
        judge(ethanol(ETHANOL[None], reference))
    assert judge(ethanol(ETHANOL[None])).stable


# Verdict


def still(n_frames: int, *offsets: tuple[float, float, float]) -> np.ndarray:
    return np.repeat(shifted(*offsets)[None], n_frames, axis=0)


def test_a_good_trajectory_is_stable() -> None:
    frames = still(50, (0, 0, 0), (3, 0, 0))
    frames += np.random.default_rng(1).normal(scale=0.02, size=frames.shape)
    judged = judge(recording(frames, shifted((0, 0, 0), (3, 0, 0))))
    assert judged.stable
    assert judged.lasted_ps == pytest.approx(0.1)
    assert 0.02 < judged.worst < 0.2


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_stretched_or_crushed_bond_is_unstable(sign: float) -> None:
    frames = still(50, (0, 0, 0))
    bond = frames[30, 2] - frames[30, 0]
    frames[29, 2] += sign * 0.49 * bond / 0.9572
    frames[30:, 2] += sign * 0.51 * bond / 0.9572
    judged = judge(recording(frames))
    assert not judged.stable
    assert judged.frames == 30
    assert judged.lasted_ps == pytest.approx(0.060)
    assert f"{sign * 0.51:+.2f} Å" in judged.reason
    assert judged.worst == pytest.approx(0.49, abs=1e-4)


def test_a_number_that_is_not_finite_is_unstable() -> None:
    frames = still(50, (0, 0, 0))
    frames[7, 1, 2] = np.nan
    judged = judge(recording(frames))
    assert not judged.stable
    assert judged.frames == 7
    assert "HOH1-H1" in judged.reason
    assert "not a finite number" in judged.reason


def test_a_molecule_that_loses_an_atom_to_another_is_unstable() -> None:
    # The bond is only 0.3 A longer, which the criterion for bonds would let pass.
    frames = still(20, (0, 0, 0), (5, 0, 0))
    bond = WATER[1] / np.linalg.norm(WATER[1])
    frames[12:, 1] = frames[12:, 0] + 1.26 * bond
    frames[12:, 3:] += frames[12, 0] + 2.45 * bond - frames[12, 3]
    judged = judge(recording(frames))
    assert not judged.stable
    assert judged.frames == 12
    assert "HOH1 lost an atom: HOH1-H1 is 1.19 Å from HOH2-O" in judged.reason
    # The control: the same hydrogen bond, drawn out less, is fine.
    frames[12:, 1] = frames[12:, 0] + 1.2 * bond
    assert judge(recording(frames)).stable


def test_an_unrelaxed_reference_is_refused() -> None:
    frames = still(3, (0, 0, 0))
    with pytest.raises(ValueError, match="must be a relaxed structure"):
        judge(recording(frames, 10.0 * WATER))


# Spectrum


def test_shift_of_verlet_is_corrected() -> None:
    # The known case: 3927 cm^-1 shows at 3950, 3933 and 3928.
    for dt, seen in ((0.5, 3950.0), (0.25, 3933.0), (0.125, 3928.0)):
        assert verlet_corrected(np.array(seen), dt) == pytest.approx(3927.0, abs=1.0)


@pytest.mark.parametrize("dt", [0.5, 0.25])
def test_spectrum_of_a_verlet_oscillator(dt: float) -> None:
    true = 3927.0
    omega = 2.0 * np.pi * SPEED_OF_LIGHT * true
    every, n_frames = round(2.0 / dt), 10_000
    x, v, velocities = 0.0, 0.01, []
    for step in range(1, n_frames * every + 1):
        v -= omega**2 * x * dt
        x += v * dt
        if step % every == 0:
            velocities.append([[v, 0.0, 0.0]])
    found = spectrum(np.array(velocities), np.array([1.0]), 2.0, dt)
    assert found is not None
    assert found.peaks.tolist() == pytest.approx([true], abs=0.3)
    # The control: without the correction it is off by more than the resolution.
    uncorrected = found.as_simulated[np.argmax(found.intensity)]
    assert uncorrected - true > (20.0 if dt == 0.5 else 5.0)


def test_intensities_of_a_spectrum_are_kinetic_energies() -> None:
    """Of two atoms as fast as each other the heavier has the higher line."""
    time = 2.0 * np.arange(4000)
    wavenumbers, masses = (1000.0, 2500.0), np.array([1.0, 16.0])
    velocities = np.zeros((len(time), 2, 3))
    for atom, wavenumber in enumerate(wavenumbers):
        omega = 2.0 * np.pi * SPEED_OF_LIGHT * wavenumber
        velocities[:, atom, atom] = 0.01 * np.cos(omega * time)
    found = spectrum(velocities, masses, 2.0, 0.5)
    assert found is not None
    heights = [
        found.intensity[np.abs(found.as_simulated - wavenumber) < 5.0].max()
        for wavenumber in wavenumbers
    ]
    assert heights == pytest.approx([1.0 / 16.0, 1.0], rel=1e-2)
    # Half of the frames are lags: 4 ps.
    assert found.resolution == pytest.approx(1.0 / (SPEED_OF_LIGHT * 4000.0))
    above = found.wavenumber[found.intensity > 0.5]
    assert np.ptp(above) == pytest.approx(found.resolution, rel=0.2)


def turning_water(vibration: float) -> tuple[np.ndarray, np.ndarray, openmm.System]:
    """Return positions (A) and velocities (A/fs) of a molecule that turns fast."""
    system, _ = harmonic_water()
    integrator = openmm.VerletIntegrator(0.0005)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, platform)
    masses = np.array([system.getParticleMass(i)._value for i in range(3)])
    x = 0.1 * (WATER - masses @ WATER / masses.sum())
    rng = np.random.default_rng(4)
    # 2.5 rad/ps about the O-H2 axis is 13 cm^-1.
    v = np.cross([0.0, 1.0, 2.3], x) + vibration * rng.normal(size=(3, 3))
    v -= masses @ v / masses.sum()
    context.setPositions(x)
    context.setVelocities(v)
    positions, velocities = [], []
    for _ in range(10_000):
        integrator.step(4)
        state = context.getState(positions=True, velocities=True)
        v = state.getVelocities(asNumpy=True)._value
        # Half a step back, to the time of the velocities.
        positions.append(10.0 * (state.getPositions(asNumpy=True)._value - v * 2.5e-4))
        velocities.append(0.01 * v)
    return np.array(positions), np.array(velocities), system


def test_spectrum_of_a_turning_molecule_has_its_normal_modes() -> None:
    positions, velocities, system = turning_water(vibration=0.05)
    masses = np.array([system.getParticleMass(i)._value for i in range(3)])
    internal = internal_velocities(positions, velocities, masses, WATER)
    found = spectrum(internal, masses, 2.0, 0.5)
    assert found is not None
    exact = exact_wavenumbers(system, WATER)
    assert len(found.peaks) == 3
    assert np.abs(found.peaks - exact).max() < 2.0
    # The control: in the laboratory frame the rotation splits every line.
    laboratory = spectrum(velocities, masses, 2.0, 0.5)
    assert laboratory is not None
    near = np.abs(laboratory.wavenumber - exact[0]) < 5.0
    far = np.abs(np.abs(laboratory.wavenumber - exact[0]) - 13.0) < 5.0
    assert laboratory.intensity[far].max() > laboratory.intensity[near].max()


def test_internal_velocities_of_a_rigid_molecule_vanish() -> None:
    rng = np.random.default_rng(2)
    turning, drifting = rng.normal(size=(2, 3))
    positions = WATER[None] + 5.0
    velocities = np.cross(turning, WATER)[None] + drifting
    masses = np.array([16.0, 1.0, 1.0])
    internal = internal_velocities(positions, velocities, masses, WATER)
    assert np.abs(internal).max() < 1e-12
    # The control: a stretch stays, turned into the frame of the reference.
    velocities[0, 1] += WATER[1]
    assert np.abs(internal_velocities(positions, velocities, masses, WATER)).max() > 0.1


@pytest.mark.parametrize("interval", [3.98, 10.0, 50.0])
def test_frames_too_far_apart_give_no_spectrum(interval: float) -> None:
    time = interval * np.arange(2000)
    velocities = np.zeros((2000, 1, 3))
    velocities[:, 0, 0] = np.cos(2 * np.pi * SPEED_OF_LIGHT * 3742.0 * time)
    with pytest.raises(ValueError, match=f"{interval:g} fs"):
        spectrum(velocities, np.ones(1), interval, 0.5)


def test_frames_near_enough_show_the_fastest_vibration() -> None:
    time = 3.96 * np.arange(4000)
    velocities = np.zeros((4000, 1, 3))
    velocities[:, 0, 0] = np.cos(2 * np.pi * SPEED_OF_LIGHT * 4150.0 * time)
    found = spectrum(velocities, np.ones(1), 3.96, 0.001)
    assert found is not None
    assert found.peaks.tolist() == pytest.approx([4150.0], abs=3.0)


@pytest.mark.parametrize("verb", ["run", "water"])
def test_shell_and_python_have_the_same_defaults(verb: str) -> None:
    assert nyquist(RunOptions.frame_fs) > HIGHEST_VIBRATION
    module = importlib.import_module(f"openmm_se3.cli.{verb}")
    defaults = {
        p.name: p.default
        for p in module.command.params
        if not getattr(p, "is_flag", False) and not getattr(p, "hidden", False)
    }
    shared = [f for f in dataclasses.fields(RunOptions) if f.name in defaults]
    assert len(shared) > 6
    for field in shared:
        if field.name != "out" and field.default is not None:
            assert defaults[field.name] == field.default, field.name


def test_a_run_with_few_frames_names_the_option_for_a_spectrum(tmp_path: Path) -> None:
    system, topology = harmonic_water()
    options = RunOptions(
        out=tmp_path / "a", seed=1, steps=4000, frame_fs=10.0, equilibration_ps=0.0
    )
    run_dynamics(system, topology, WATER, options)
    analysis = analyze_folder(tmp_path / "a")
    assert analysis.spectrum is None and analysis.whole_spectrum is None
    (reason,) = [line for line in analysis.missing if "spectrum" in line]
    assert "--frame-interval 2.5" in reason and "frame_fs=2.5" in reason
    assert "1668 cm^-1" in reason


def test_too_few_frames_give_no_spectrum() -> None:
    assert spectrum(np.zeros((100, 3, 3)), np.ones(3), 2.0, 0.5) is None


# Folders and files


def test_a_run_is_analysed_whole_and_the_same_again(finished: Path) -> None:
    analysis = analyze_folder(finished)
    first = json.loads((finished / names.SUMMARY).read_text())
    assert first["verdict"] == "STABLE"
    assert first["lasted_ps"] == pytest.approx(2.0)
    assert first["oh_length_angstrom"]["mean"] == pytest.approx(0.957, abs=0.01)
    assert first["degrees_of_freedom"] == 15
    assert first["shadow_drift_kt_per_ns_per_dof"]["error"] < 0.1
    assert first["molecules"] == 2
    assert first["missing"] == []
    assert analysis.whole_spectrum is not None
    assert (finished / names.FIGURE).read_bytes().startswith(b"\x89PNG")
    assert "STABLE for 2 ps" in (finished / names.REPORT).read_text()
    result = CliRunner().invoke(main, ["analyze", str(finished)])
    assert result.exit_code == 0, result.output
    assert "STABLE for 2 ps" in result.output
    assert json.loads((finished / names.SUMMARY).read_text()) == first


def test_a_run_that_the_guard_stopped_is_unstable(tmp_path: Path) -> None:
    system, topology = harmonic_water()
    options = RunOptions(
        out=tmp_path / "a", steps=400, dt_fs=4.0, equilibration_ps=0.0, seed=2
    )
    record = run_dynamics(system, topology, WATER, options)
    assert record.status == "stopped"
    result = CliRunner().invoke(main, ["analyze", str(tmp_path / "a")])
    assert result.exit_code == 1, result.output
    assert "UNSTABLE after" in result.output
    found = json.loads((tmp_path / "a" / names.SUMMARY).read_text())
    title = draw(analyze(read_folder(tmp_path / "a"))).get_suptitle()
    assert record.reason in title.replace("\n", " ")  # wrapped, not cut
    assert max(map(len, title.splitlines())) < 110
    assert found["reason"] == record.reason
    assert found["lasted_ps"] == record.time_ps


def test_a_run_stopped_in_equilibration_can_be_analysed(tmp_path: Path) -> None:
    system, topology = harmonic_water()
    options = RunOptions(
        out=tmp_path / "a", seed=1, steps=400, dt_fs=4.0, equilibration_ps=1.0
    )
    run_dynamics(system, topology, WATER, options)
    analysis = analyze_folder(tmp_path / "a")
    assert not analysis.stability.stable
    assert analysis.stability.lasted_ps == 0.0
    assert "already in the equilibration" in analysis.stability.reason
    assert (tmp_path / "a" / names.FIGURE).exists()
    figure = draw(analysis)
    assert figure.get_suptitle().endswith("There is nothing to draw.")
    assert figure.get_figheight() < 2.0  # no blank page


def test_a_very_short_run_says_what_it_cannot_give(tmp_path: Path) -> None:
    system, topology = harmonic_water()
    options = RunOptions(out=tmp_path / "a", seed=1, steps=1, equilibration_ps=0.0)
    run_dynamics(system, topology, WATER, options)
    analysis = analyze_folder(tmp_path / "a")
    assert analysis.stability.stable
    assert "No energy drift: the run is too short for block means." in analysis.missing
    assert "No vibrational spectrum: too few frames." in analysis.missing


def test_drift_is_that_of_the_total_energy() -> None:
    """Not of its parts, and that of the shadow energy only where there is one."""
    time = 0.01 * np.arange(400)
    log = {
        "time_ps": time,
        "temperature_k": np.resize([290.0, 310.0], 400),
        "potential_kj_per_mol": -50.0 + 3.0 * time,
        "kinetic_kj_per_mol": 10.0 - 1.0 * time,
        "total_kj_per_mol": -40.0 + 2.0 * time,
        "shadow_kj_per_mol": np.where(np.arange(400) < 390, 0.5 * time, np.nan),
    }
    found = energies(log, 300.0, 6, conserved=True)
    assert found is not None and found.drift and found.shadow_drift
    assert found.temperature == pytest.approx(300.0)
    assert found.drift.slope == pytest.approx(2.0, rel=1e-9)
    assert found.shadow_drift.slope == pytest.approx(0.5, rel=1e-9)
    assert found.fluctuation == pytest.approx(log["total_kj_per_mol"].std())
    thermostatted = energies(log, 300.0, 6, conserved=False)
    assert thermostatted is not None
    assert thermostatted.drift is None and thermostatted.shadow_drift is None


def test_nvt_has_no_drift(tmp_path: Path) -> None:
    system, topology = harmonic_water()
    options = RunOptions(
        out=tmp_path / "a", seed=1, steps=2000, ensemble="nvt", equilibration_ps=0.0
    )
    run_dynamics(system, topology, WATER, options)
    analysis = analyze_folder(tmp_path / "a")
    assert analysis.energies is not None
    assert analysis.energies.drift is None
    assert any("thermostat" in sentence for sentence in analysis.missing)
    report = (tmp_path / "a" / names.REPORT).read_text()
    assert "± of lengths" in report
    assert "NVE" not in report


@pytest.mark.parametrize("equilibration_ps", [0.0, 0.1])
def test_the_note_of_nve_fits_its_start(
    tmp_path: Path, equilibration_ps: float
) -> None:
    system, topology = harmonic_water()
    options = RunOptions(
        out=tmp_path / "a", seed=1, steps=100, equilibration_ps=equilibration_ps
    )
    run_dynamics(system, topology, WATER, options)
    console = Console(file=io.StringIO(), width=200)
    print_report(analyze_folder(tmp_path / "a"), console)
    for text in (
        console.file.getvalue(),
        (tmp_path / "a" / names.REPORT).read_text(),
    ):
        assert "± of lengths" in text
        assert ("starts at the minimum" in text) is (equilibration_ps == 0.0)
        assert ("last moment of the equilibration" in text) is (equilibration_ps > 0.0)


def test_the_report_names_model_and_system(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    run = json.loads((tmp_path / names.RUN).read_text())
    run |= {
        "molecules": 2,
        "model": "my [model]",
        "backend": "torchforce",
        "level_of_theory": {"method": "wb97x", "basis": "6-31g*"},
    }
    (tmp_path / names.RUN).write_text(json.dumps(run))
    analysis = analyze_folder(tmp_path)
    console = Console(file=io.StringIO(), width=200)
    print_report(analysis, console)
    assert analysis.spectrum is not None
    resolution = f"(resolution {analysis.spectrum.resolution:.1f} cm^-1)"
    report = (tmp_path / names.REPORT).read_text()
    for text in (console.file.getvalue(), report):
        assert "my [model], trained on wb97x/6-31g*" in text
        assert "2 water molecules, 6 atoms, NVE" in text
        assert "torchforce" in text
        assert resolution in text
        assert " A " not in text  # Å throughout
    assert report.startswith("# Analysis of a water trajectory\n")


# Figure


def test_the_drift_of_the_title_is_what_is_drawn(finished: Path) -> None:
    analysis = analyze(read_folder(finished))
    assert analysis.energies is not None and analysis.energies.shadow_drift is not None
    figure = draw(analysis)
    assert figure.get_suptitle() == verdict(analysis)
    axes = {axis.get_title(): axis for axis in figure.axes}
    (drift,) = (axis for title, axis in axes.items() if title.startswith("Drift"))
    lines = {str(line.get_label()): line for line in drift.lines}
    time, fit = lines["fit to shadow"].get_data()
    slope = (fit[-1] - fit[0]) / (time[-1] - time[0])
    assert slope == pytest.approx(analysis.energies.shadow_drift.slope)
    for name in ("total", "shadow"):
        assert np.nanmean(lines[name].get_ydata()) == pytest.approx(0.0, abs=1e-9)
    timed = [axis for axis in figure.axes if axis.get_xlabel() == "time (ps)"]
    assert len(timed) == 4
    assert all(axis.get_xlim()[0] == 0.0 for axis in timed)


@pytest.mark.parametrize(("n_frames", "molecules"), [(100, 1), (1000, 1), (100, 2)])
def test_bond_lengths_are_lines_or_their_span(n_frames: int, molecules: int) -> None:
    centres = [(0.0, 0.0, 8.0 * molecule) for molecule in range(molecules)]
    frames = still(n_frames, *centres)
    frames[:, 1] *= 1.0 + 0.02 * np.sin(np.arange(n_frames))[:, None] ** 2
    frames[n_frames // 2, 1] *= 1.1  # a single frame must not be skipped
    reference = still(1, *centres)[0]
    (axis, *_) = draw(analyze(recording(frames, reference))).axes
    longest = 0.9572 * 1.1
    if n_frames == 100 and molecules == 1:
        assert len(axis.lines) == 2
        assert axis.get_legend() is None
        assert max(line.get_ydata().max() for line in axis.lines) > longest
    else:
        (span,) = axis.collections
        assert span.get_paths()[0].vertices[:, 1].max() > longest
        labels = [text.get_text() for text in axis.get_legend().get_texts()]
        assert labels == ["shortest to longest", "mean"]


# Boxes


def boxed(frames: np.ndarray, vectors: np.ndarray) -> mdtraj.Trajectory:
    """Return frames [n_frames, n_atoms, 3] in boxes [n_frames, 3, 3], A."""
    trajectory = recording(frames).trajectory
    trajectory.unitcell_vectors = 0.1 * vectors
    return trajectory


def test_density_and_ideal_pair_distribution_of_a_triclinic_box() -> None:
    rng = np.random.default_rng(5)
    vectors = np.array([[14.0, 0.0, 0.0], [4.0, 13.0, 0.0], [-3.0, 5.0, 12.0]])
    volume = 14.0 * 13.0 * 12.0
    frames = rng.random((60, 180, 3)) @ vectors
    found = liquid(boxed(frames, np.repeat(vectors[None], 60, axis=0)))
    assert found is not None and not found.changes
    grams = 60 * 18.01528 / 6.02214076e23
    assert found.density == pytest.approx(grams / (volume * 1e-24), rel=1e-4)
    # Widths between faces are shorter than the vectors.
    assert 0.5 * 10.4 < found.r[-1] < 0.5 * 12.0
    for g in found.g.values():
        assert g[found.r > 2.0].mean() == pytest.approx(1.0, abs=0.02)


def test_pair_distribution_finds_a_distance_and_density_its_change() -> None:
    lattice = 3.02 * np.array(list(np.ndindex(4, 4, 4)), float)
    frames = (lattice[:, None] + water_positions(1)).reshape(1, -1, 3)
    frames = np.repeat(frames, 10, axis=0)
    scale = np.linspace(1.0, 1.05, 10)[:, None, None]
    found = liquid(boxed(frames, 12.08 * scale * np.eye(3)))
    assert found is not None and found.changes
    assert found.density[0] / found.density[-1] == pytest.approx(1.05**3, rel=1e-4)
    assert found.r[np.argmax(found.g["O-O"])] == pytest.approx(3.02, abs=0.03)
    inside = found.g["O-H"][found.r < 1.2]
    assert found.r[np.argmax(inside)] == pytest.approx(0.9572, abs=0.05)


def test_a_box_adds_density_and_pair_distribution_to_the_report() -> None:
    lattice = 3.5 * np.array(list(np.ndindex(2, 2, 2)), float)
    frames = np.repeat(
        (lattice[:, None] + water_positions(1)).reshape(1, -1, 3), 5, axis=0
    )
    free = analyze(recording(frames))
    assert free.liquid is None and "density_g_per_cm3" not in summary(free)
    box = dataclasses.replace(
        recording(frames), trajectory=boxed(frames, np.tile(7.0 * np.eye(3), (5, 1, 1)))
    )
    analysis = analyze(box)
    # Both hydrogens of a molecule are among the pairs, 1.51 A apart.
    assert analysis.liquid is not None
    inside = np.abs(analysis.liquid.r - 1.51) < 0.1
    assert analysis.liquid.g["H-H"][inside].max() > 1.0
    titles = {axis.get_title() for axis in draw(analysis).axes}
    assert "Pair distribution g(r)" in titles
    assert not any(title.startswith("Density") for title in titles)
    assert summary(analysis)["density_g_per_cm3"]["mean"] == pytest.approx(
        8 * 18.01528 / 0.602214 / 343.0, rel=1e-4
    )
    console = Console(file=io.StringIO())
    print_report(analysis, console)
    assert "0.698 (constant) g/cm³" in console.file.getvalue()


# Other trajectories


def write_methanol(path: Path, bonds: bool) -> Path:
    """Write methanol's heavy atoms and the hydroxyl hydrogen as a PDB file."""
    topology = app.Topology()
    residue = topology.addResidue("MEO", topology.addChain())
    atoms = [
        topology.addAtom(name, app.Element.getBySymbol(name), residue)
        for name in ("C", "O", "H")
    ]
    if bonds:
        topology.addBond(atoms[0], atoms[1])
        topology.addBond(atoms[1], atoms[2])
    positions = np.array([[-1.4, 0.0, 0.0], [0.0, 0.0, 0.0], [0.3, 0.9, 0.0]])
    with open(path, "w") as file:
        app.PDBFile.writeFile(topology, positions * unit.angstrom, file)
    return path


@pytest.mark.parametrize("bonds", [True, False])
def test_a_trajectory_without_bonds_is_not_judged(tmp_path: Path, bonds: bool) -> None:
    top = write_methanol(tmp_path / "top.pdb", bonds)
    positions = mdtraj.load(str(top)).xyz * 10.0
    dcd = write_dcd(tmp_path / "a.dcd", positions)
    arguments = ["analyze", "--trajectory", str(dcd), "--topology", str(top)]
    result = CliRunner().invoke(main, arguments)
    folder = tmp_path / "a-analysis"
    if bonds:
        assert result.exit_code == 0, result.output
        assert "STABLE for 1 frame;" in result.output
        report = (folder / names.REPORT).read_text()
        assert report.startswith("# Analysis of a trajectory\n")
    else:
        assert result.exit_code == 2, result.output
        assert "no bonds to judge" in result.output
        assert "STABLE" not in result.output
        assert not folder.exists()


def test_any_trajectory_is_analysed_and_what_it_lacks_is_said(tmp_path: Path) -> None:
    frames = still(30, (0, 0, 0), (3, 0, 0))
    frames[20, 1] += 1.0
    top = write_pdb(tmp_path / "top.pdb", frames[0])
    dcd = write_dcd(tmp_path / "other.dcd", frames)
    arguments = ["analyze", "--trajectory", str(dcd), "--topology", str(top)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1, result.output
    assert "UNSTABLE after 20 frames" in result.output
    for word in ("energies", "spectrum", "times"):
        assert f"No {word}" in result.output or word in result.output
    folder = tmp_path / "other-analysis"
    assert {path.name for path in folder.iterdir()} == {
        names.SUMMARY,
        names.REPORT,
        names.FIGURE,
    }
    result = CliRunner().invoke(main, [*arguments, "--frame-interval", "2"])
    assert "UNSTABLE after 0.04 ps" in result.output


def test_formats_with_times_keep_them(tmp_path: Path) -> None:
    top = write_pdb(tmp_path / "top.pdb", WATER)
    trajectory = recording(still(5, (0, 0, 0))).trajectory
    trajectory.time = 0.5 * np.arange(1, 6)
    trajectory.save_xtc(str(tmp_path / "a.xtc"))
    read = read_files(tmp_path / "a.xtc", top)
    assert read.times is not None
    assert read.times.tolist() == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.5])


def test_a_cut_trajectory_gives_its_whole_frames(
    finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    dcd = tmp_path / names.TRAJECTORY
    dcd.write_bytes(dcd.read_bytes()[:-50])
    log = tmp_path / names.LOG
    log.write_bytes(log.read_bytes()[:-40])
    read = read_folder(tmp_path)
    assert read.trajectory.n_frames == 799
    assert read.velocities is not None
    assert len(read.velocities) == 799
    assert len(read.log["step"]) in (158, 159)
    assert analyze(read).stability.stable


def test_unreadable_input_is_named(tmp_path: Path, finished: Path) -> None:
    top = write_pdb(tmp_path / "top.pdb", WATER)
    dcd = write_dcd(tmp_path / "two.dcd", still(3, (0, 0, 0), (3, 0, 0)))
    with pytest.raises(ValueError, match="with the 3 atoms of"):
        read_files(dcd, top)
    (tmp_path / "bad.dcd").write_bytes(b"not a trajectory")
    with pytest.raises(ValueError, match="mdtraj cannot read"):
        read_files(tmp_path / "bad.dcd", top)
    with pytest.raises(ValueError, match="no topology file"):
        read_files(dcd, tmp_path / "none.pdb")
    with pytest.raises(ValueError, match="no trajectory file"):
        read_files(tmp_path / "none.dcd", top)
    with pytest.raises(ValueError, match="not the folder of a run"):
        read_folder(tmp_path)
    (tmp_path / "log.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="is not a log"):
        read_log(tmp_path / "log.csv")


@pytest.mark.parametrize(
    "arguments",
    [
        ["analyze"],
        ["analyze", "nowhere"],
        ["analyze", "--trajectory", __file__],
        ["analyze", ".", "--frame-interval", "2"],
        ["water", "--dt", "-1"],
        ["water", "--steps", "0"],
        ["water", "--temperature", "-5"],
        ["water", "--molecules", "0"],
        ["water", "--ensemble", "npt"],
        ["water", "--seed", "-3"],
    ],
)
def test_bad_commands_end_with_code_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "Error: " in result.output
    assert "Traceback" not in result.output


def test_summary_has_no_number_that_is_not_one(tmp_path: Path) -> None:
    frames = still(5, (0, 0, 0))
    frames[0] = np.nan
    analysis = analyze(recording(frames, WATER))
    assert analysis.geometry is None
    json.dumps(summary(analysis), allow_nan=False)
    write_results(analysis, tmp_path / "out")
    assert (tmp_path / "out" / names.REPORT).exists()


# Names


def test_folders_and_files_whose_names_are_not_ascii(
    finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "Wässer, 水"
    shutil.copytree(finished, folder)
    found = read_folder(folder)
    expected = read_folder(finished)
    assert np.array_equal(found.trajectory.xyz, expected.trajectory.xyz)
    assert np.array_equal(found.reference, expected.reference)
    expected.trajectory.save_xtc(str(tmp_path / "a.xtc"))
    named = shutil.move(tmp_path / "a.xtc", folder / "Ångström.v1.xtc")
    files = read_files(named, folder / names.TOPOLOGY)
    assert files.trajectory.n_frames == expected.trajectory.n_frames
    with pytest.raises(ValueError, match="Wässer"):
        read_files(folder / names.LOG, folder / names.TOPOLOGY)
    summarized = analyze_folder(folder)
    assert summarized.stability.stable
    assert (folder / names.FIGURE).is_file()
