"""Other runs and damaged checkpoints are refused."""

from __future__ import annotations

import json
import shutil
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from analytic_water import harmonic_water, water_positions
from resumed_runs import STEPS, assert_same, content, run, stop_at

from openmm_se3.analysis.read import read_log
from openmm_se3.simulation import (
    FolderInUseError,
    RunOptions,
    run_dynamics,
)
from openmm_se3.simulation import folder as names
from openmm_se3.simulation.checkpoint import environment
from openmm_se3.simulation.folder import RunFolder


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an NVE run that was stopped half way; to be copied."""
    out = tmp_path_factory.mktemp("half") / "run"
    with pytest.raises(KeyboardInterrupt):
        stop_at(STEPS // 2, signal.SIGINT, out)
    return out


def test_a_run_of_an_older_version_is_resumed_without_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_before(*arguments: Any) -> dict[str, str]:
        here = environment(*arguments)
        return {"engine": here.pop("implementation"), **here}

    out, about = tmp_path / "run", {"weights_sha256": "a", "engine": "compiled"}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("openmm_se3.simulation.run.environment", as_before)
        with pytest.warns(DeprecationWarning, match="implementation"):
            stop_at(100, signal.SIGINT, out, steps=200, about=about)
    about = {"weights_sha256": "a", "implementation": "compiled"}
    run(out, steps=200, resume=True, about=about)
    facts = json.loads((out / names.RUN).read_text())
    assert facts["resumed"][0]["bit_identical"]
    assert facts["implementation"] == "compiled"


@pytest.mark.parametrize(
    ("changes", "differences"),
    [
        ({"temperature": 310.0}, ["temperature: 300.0 in the checkpoint, 310.0 now"]),
        ({"dt_fs": 0.25}, ["dt_fs: 0.5 in", "frame_interval: 4 in the checkpoint, 8"]),
        ({"seed": 7}, ["seed: 1 in the checkpoint, 7 now"]),
        ({"ensemble": "nvt"}, ["ensemble: nve in the checkpoint, nvt now"]),
        ({"ensemble": "npt"}, ["atoms: 6 in the checkpoint, 24", "elements: H4 O2 in"]),
        (
            {"about": {"weights_sha256": "b"}},
            ["weights_sha256: a in the checkpoint, b"],
        ),
        (
            {"about": {"weights_sha256": "b", "level": "other"}},
            ["in the folder: the model is another one; undo"],
        ),
    ],
)
def test_another_run_is_refused_and_the_difference_named(
    tmp_path: Path, half: Path, changes: dict[str, Any], differences: list[str]
) -> None:
    out = tmp_path / "a"
    with pytest.raises(KeyboardInterrupt):
        stop_at(100, signal.SIGINT, out, steps=200, about={"weights_sha256": "a"})
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    with pytest.raises(ValueError, match="this is another run") as caught:
        run(out, **{"resume": True, "about": {"weights_sha256": "a"}, **changes})
    for text in differences:
        assert text in str(caught.value)
    assert before == {path: path.read_bytes() for path in out.rglob("*.*")}


def test_another_force_or_start_is_refused(tmp_path: Path, half: Path) -> None:
    out = shutil.copytree(half, tmp_path / "a")
    options = RunOptions(
        seed=1,
        out=out,
        steps=STEPS,
        platform="Reference",
        equilibration_ps=0.2,
        frame_fs=2.0,
        checkpoint_ps=0.1,
        resume=True,
    )
    system, topology = harmonic_water(2)
    system.getForce(0).setBondParameters(0, 0, 1, 0.1, 1000.0)
    with pytest.raises(ValueError, match=r"system.sha256: \w+ in the checkpoint"):
        run_dynamics(system, topology, water_positions(2, 1), options)
    system, topology = harmonic_water(2)
    with pytest.raises(ValueError, match=r"system.start_sha256: \w+ in the checkpoint"):
        run_dynamics(system, topology, water_positions(2, 2), options)


def test_on_another_platform_it_goes_on_from_the_state_and_says_so(
    tmp_path: Path, half: Path, uninterrupted: Callable[[str], dict[str, Any]]
) -> None:
    out = shutil.copytree(half, tmp_path / "a")
    with pytest.warns(UserWarning, match="platform: Reference in .* not bit-identical"):
        run(out, resume=True, platform="CPU")
    (resumed,) = json.loads((out / names.RUN).read_text())["resumed"]
    assert not resumed["bit_identical"]
    found, expected = content(out), uninterrupted("nve")
    for name in ("positions", "velocities", "times"):
        assert found[name].shape == expected[name].shape
    first = resumed["step"] // 4
    assert_same({"x": found["positions"][:first]}, {"x": expected["positions"][:first]})
    # Positions, velocities and step are those of the checkpoint; chaos comes later.
    for name, limit in (("positions", 1e-4), ("velocities", 1e-4)):
        next_frames = slice(first, first + 5)
        apart = np.abs(found[name][next_frames] - expected[name][next_frames]).max()
        assert 0.0 < apart < limit
    steps = read_log(out / names.LOG)["step"]
    assert (np.diff(steps) == steps[0]).all()


def test_other_random_numbers_follow_a_state(tmp_path: Path) -> None:
    # With the seed of the start, the noise of the first steps would come once more.
    out, changes = tmp_path / "a", {"ensemble": "nvt", "equilibration_ps": 0.0}
    with pytest.raises(KeyboardInterrupt):
        stop_at(500, signal.SIGINT, out, **changes)
    seeds = []
    for seed in (1, None):
        copy = shutil.copytree(out, tmp_path / str(seed))
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            where = "openmm_se3.simulation.run.environment"
            patch.setattr(where, lambda *_: {"platform": "Reference", "openmm": "9"})
            if seed is not None:
                where = "openmm_se3.simulation.checkpoint.set_seed"
                patch.setattr(where, lambda *_: None)
            run(copy, resume=True, **changes)
        seeds.append(content(copy)["velocities"])
    assert not np.array_equal(*seeds)


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "one bit":
        place = len(data) // 2
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    else:
        path.unlink()


@pytest.mark.parametrize("suffix", [".chk", ".xml", ".json"])
@pytest.mark.parametrize("how", ["truncated", "one bit", "missing"])
def test_the_checkpoint_before_a_damaged_one_is_used(
    tmp_path: Path,
    half: Path,
    suffix: str,
    how: str,
    uninterrupted: Callable[[str], dict[str, Any]],
) -> None:
    out = shutil.copytree(half, tmp_path / "a")
    older, newer = sorted((out / names.CHECKPOINTS).glob(f"*{suffix}"))
    damage(newer, how)
    if (suffix, how) == (".json", "missing"):
        # As if the kill had come before it was written.
        run(out, resume=True)
    else:
        with pytest.warns(UserWarning, match=f"{newer.stem} is damaged.*{older.stem}"):
            run(out, resume=True)
    (resumed,) = json.loads((out / names.RUN).read_text())["resumed"]
    assert f"production-{resumed['step']:012d}" == older.stem
    assert_same(content(out), uninterrupted("nve"))


def test_without_a_whole_checkpoint_it_is_refused(tmp_path: Path, half: Path) -> None:
    out = shutil.copytree(half, tmp_path / "a")
    for path in (out / names.CHECKPOINTS).glob("*.chk"):
        damage(path, "truncated")
    with pytest.raises(ValueError, match=r"is damaged: .*; .* is damaged.*--overwrite"):
        run(out, resume=True)
    shutil.rmtree(out / names.CHECKPOINTS)
    with pytest.raises(ValueError, match="but no checkpoint to go on from"):
        run(out, resume=True)
    assert (out / names.TRAJECTORY).exists()


@pytest.mark.parametrize("name", [names.TRAJECTORY, names.VELOCITIES, names.LOG])
def test_a_record_that_lost_something_is_refused(
    tmp_path: Path, half: Path, name: str
) -> None:
    out = shutil.copytree(half, tmp_path / "a")
    damage(out / name, "truncated")
    with pytest.raises(ValueError, match=f"{name} has .* bytes, at the checkpoint"):
        run(out, resume=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (names.TOPOLOGY, None, "topology.pdb.* cannot be read .*put it back"),
        (names.TOPOLOGY, "REMARK\n", "topology.pdb has 0 atoms, the run 6: put"),
        (names.RUN, '{"status": "run', "run.json is damaged .*remove it, and --resume"),
        (names.RUN, "[]", "run.json is damaged: it is not a JSON object"),
    ],
)
def test_a_damaged_file_of_a_run_is_named_with_what_to_do(
    tmp_path: Path, half: Path, name: str, content: str | None, message: str
) -> None:
    out = shutil.copytree(half, tmp_path / "a")
    (out / name).unlink()
    if content is not None:
        (out / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        run(out, resume=True)
    if name == names.RUN:  # and so it is
        (out / name).unlink()
        assert run(out, resume=True).status == "completed"


def test_a_frame_cut_in_the_middle_is_written_again(
    tmp_path: Path, half: Path, uninterrupted: Callable[[str], dict[str, Any]]
) -> None:
    # What a kill leaves: OpenMM counts a DCD frame before it writes it.
    out = shutil.copytree(half, tmp_path / "a")
    for name, rest in ((names.TRAJECTORY, 60), (names.VELOCITIES, 30), (names.LOG, 9)):
        with open(out / name, "ab") as file:
            file.write(b"7" * rest)
    with open(out / names.TRAJECTORY, "r+b") as file:
        file.seek(8)
        count = int.from_bytes(file.read(4), "little")
        file.seek(8)
        file.write((count + 1).to_bytes(4, "little"))
    run(out, resume=True)
    assert_same(content(out), uninterrupted("nve"))


def test_only_two_checkpoints_and_nothing_half_written_are_kept(
    tmp_path: Path, half: Path
) -> None:
    out = shutil.copytree(half, tmp_path / "a")
    (out / names.CHECKPOINTS / ".production-000000000002.x1y2.chk").touch()
    run(out, resume=True)
    found = sorted(path.name for path in (out / names.CHECKPOINTS).iterdir())
    stems = {name.partition(".")[0] for name in found}
    assert len(stems) == 2
    assert found == sorted(f"{s}.{x}" for s in stems for x in ("chk", "json", "xml"))


# Folders


def test_resuming_what_is_not_there_starts_at_the_beginning(
    tmp_path: Path, uninterrupted: Callable[[str], dict[str, Any]]
) -> None:
    run(tmp_path / "a", resume=True)
    assert_same(content(tmp_path / "a"), uninterrupted("nve"))


def test_two_sittings_cannot_share_a_folder(tmp_path: Path, half: Path) -> None:
    out = shutil.copytree(half, tmp_path / "a")
    with RunFolder(out, results_allowed=True):
        with pytest.raises(FolderInUseError, match="another run"):
            run(out, resume=True)
    with pytest.raises(FolderInUseError, match="--resume goes on with it"):
        run(out)
