"""Trajectories of other programs, damaged and wrong input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from click.testing import CliRunner
from openmm import app, unit
from recordings import WATER, recording, still

from openmm_se3.analysis import (
    analyze,
    analyze_folder,
    read_files,
    read_folder,
    summary,
    write_results,
)
from openmm_se3.analysis.read import read_log
from openmm_se3.cli import main
from openmm_se3.simulation import folder as names
from openmm_se3.simulation import (
    water_topology,
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


def test_any_trajectory_is_analyzed_and_what_it_lacks_is_said(tmp_path: Path) -> None:
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
        names.PAGE,
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


def test_a_trajectory_that_lost_frames_says_so(finished: Path, tmp_path: Path) -> None:
    assert not any("frames are there" in text for text in read_folder(finished).missing)
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    dcd = tmp_path / names.TRAJECTORY
    content = dcd.read_bytes()
    dcd.write_bytes(content[: len(content) // 3])
    read = read_folder(tmp_path)
    told = f"Only {read.trajectory.n_frames} of 800 frames are there"
    assert read.missing[0].startswith(told) and read.trajectory.n_frames < 300
    assert analyze(read).missing[0].startswith(told)


def test_a_log_that_lost_rows_says_where(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    log = tmp_path / names.LOG
    lines = log.read_text().splitlines(keepends=True)
    steps = [line.split(",")[0] for line in lines]
    log.write_text("".join([*lines[:5], *lines[8:]]))
    expected = f"in 1 places, the first between the steps {steps[4]} and {steps[8]}."
    assert any(expected in text for text in read_folder(tmp_path).missing)


def test_damage_inside_a_log_or_velocities_is_named(
    finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    log = tmp_path / names.LOG
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([*lines[:5], lines[5][:20] + "\n", *lines[6:]]))
    with pytest.raises(ValueError, match="line 6 has . fields instead of"):
        read_folder(tmp_path)
    log.write_text("".join([*lines[:-1], lines[-1][:20]]))  # cut at the end: a kill
    assert len(read_folder(tmp_path).log["step"]) == len(lines) - 2
    velocities = tmp_path / names.VELOCITIES
    velocities.write_bytes(velocities.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"velocities.npy is damaged .* remove it"):
        read_folder(tmp_path)


@pytest.mark.parametrize("frame_fs", [0.0, -2.0, float("nan"), float("inf")])
def test_a_time_between_frames_is_positive(frame_fs: float, tmp_path: Path) -> None:
    top = write_pdb(tmp_path / "top.pdb", WATER)
    dcd = write_dcd(tmp_path / "two.dcd", still(3, (0, 0, 0)))
    with pytest.raises(ValueError, match="time between frames must be positive"):
        read_files(dcd, top, frame_fs)


def test_a_reference_that_is_wrapped_into_its_box_is_made_whole(
    tmp_path: Path,
) -> None:
    box = np.eye(3) * 10.0
    whole = WATER + (9.9, 5.0, 5.0)
    wrapped = whole % 10.0
    assert np.abs(wrapped - whole).max() > 9.0
    topology = mdtraj.Topology.from_openmm(water_topology(1))
    frames = mdtraj.Trajectory(np.tile(wrapped, (3, 1, 1)) / 10.0, topology)
    frames.unitcell_vectors = np.tile(box / 10.0, (3, 1, 1))
    frames[0].save_pdb(str(tmp_path / "top.pdb"))
    frames.save_dcd(str(tmp_path / "a.dcd"))
    read = read_files(tmp_path / "a.dcd", tmp_path / "top.pdb", 1.0)
    lengths = np.linalg.norm(read.reference[1:] - read.reference[0], axis=1)
    expected = np.linalg.norm(WATER[1:] - WATER[0], axis=1)
    assert lengths == pytest.approx(expected, abs=2e-3)
    assert analyze(read).stability.stable


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
