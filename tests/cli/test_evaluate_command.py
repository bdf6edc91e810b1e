"""The command that evaluates a model on data."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import write
from click.testing import CliRunner, Result
from committees import write_weights
from data_files import write_conformers, write_two_files
from random_model import SELF_ENERGIES, SMALLEST, WATER, random_checkpoint

from openmm_se3.cli import main
from openmm_se3.config import to_dict
from openmm_se3.data.frames import Frame, Frames
from openmm_se3.data.load import (
    Source,
    hash_source,
    read_datasets,
)
from openmm_se3.data.splits import (
    SplitConfig,
    make_splits,
)
from openmm_se3.export import model_of_checkpoint
from openmm_se3.model_file import load_model
from openmm_se3.single_point import evaluate
from openmm_se3.training.evaluation import evaluate_model, read_as_trained
from openmm_se3.units import EV_TO_KCAL_PER_MOL


def test_evaluate_prints_the_errors_of_a_model(
    frames: list[Frame], random_model: Path, tmp_path: Path
) -> None:
    chosen = [*frames[:3], *frames[-3:]]
    path = write_conformers(tmp_path / "a.h5", chosen)
    out = tmp_path / "out"
    arguments = ["evaluate", str(random_model), str(path), "--out", str(out)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    model = load_model(random_model)
    network = model.network()
    errors = []
    for frame in chosen:
        symbols = ["H" if z == 1 else "O" for z in frame.numbers]
        _, forces = evaluate(network, symbols, frame.positions)
        errors.append(np.abs(forces - frame.forces).ravel())
    expected = np.concatenate(errors).mean() * EV_TO_KCAL_PER_MOL
    written = json.loads((out / "errors.json").read_text())["all"]["all"]
    assert written["force_mae"] == pytest.approx(expected, rel=1e-4)
    assert f"{expected:.4f}" in result.output
    assert (out / "parity.png").stat().st_size > 0
    arguments = ["evaluate", str(random_model), str(path), "--split", "test"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "hold no frames of the split 'test'; --split all takes" in result.output
    write(
        tmp_path / "c.xyz", Atoms("CC", [[0, 0, 0], [0, 0, 1.3]], info={"energy": 1.0})
    )
    result = CliRunner().invoke(
        main, ["evaluate", str(random_model), str(tmp_path / "c.xyz")]
    )
    assert (
        result.exit_code == 2
        and "hold ['C'], which model.elements lack" in result.output
    )


def test_models_of_older_versions_keep_their_test_frames(tmp_path: Path) -> None:
    file = tmp_path / "a.xyz"
    for index in range(40):
        info = {"energy": -2000.0, "trajectory": f"t{index}", "kind": "md"}
        info["temperature"] = 300.0 if index < 30 else 500.0
        atoms = Atoms("OHH", (1.0 + 0.01 * index) * WATER, info=info)
        write(file, atoms, append=True)
    rule = SplitConfig(by="trajectory", fractions=(0.5, 0.2, 0.3), seed=7)
    frames = read_datasets([file]).frames
    splits = {}
    for old in (True, False):
        checkpoint = random_checkpoint()
        checkpoint["data"]["files"] = [[file.name, hash_source(file)]]
        checkpoint["choices"]["split"] = to_dict(rule)
        if old:
            del checkpoint["choices"]["split"]["stratify"]
        model = model_of_checkpoint(checkpoint, f"model-{old}", "MIT")
        dataset = read_as_trained(model, [Source(str(file))])
        splits[old] = dataset.frames.column("split")
        then = dataclasses.replace(rule, stratify=not old)
        assert (splits[old] == make_splits(frames, then)).all()
    assert (splits[True] != splits[False]).any()


def test_errors_of_a_model_are_against_its_own_self_energies() -> None:
    model = model_of_checkpoint(random_checkpoint(**SMALLEST), "small", "MIT")
    isolated = SELF_ENERGIES["O"] + 2.0 * SELF_ENERGIES["H"]
    frames = []
    for size, shift in ((1.0, 0.1), (1.05, -0.3)):
        network = model.network(torch.float64)
        energy, forces = evaluate(network, ["O", "H", "H"], size * WATER)
        total = isolated + energy + shift
        frames.append(Frame(np.array([8, 1, 1]), size * WATER, total, forces + 0.02))
    found = evaluate_model(model, Frames.of(frames), torch.float64).errors["all"]
    assert found["energy_mae"] == pytest.approx(0.2 * EV_TO_KCAL_PER_MOL, rel=1e-6)
    assert found["force_mae"] == pytest.approx(0.02 * EV_TO_KCAL_PER_MOL, rel=1e-6)


def test_evaluate_divides_frames_as_the_models_run_did(
    frames: list[Frame], tmp_path: Path
) -> None:
    """The files say that every frame is a training frame; the run divided them."""
    files = [tmp_path / "a.xyz", tmp_path / "b.xyz"]
    for offset, file in enumerate(files):
        for index in range(10):
            info = {"energy": -2000.0 - index, "trajectory": f"t{index}"}
            atoms = Atoms("OHH", (1.0 + 0.01 * index) * WATER + offset, info=info)
            write(file, atoms, append=True)
    rule = SplitConfig(by="trajectory", fractions=(0.5, 0.2, 0.3), seed=4)
    checkpoint = random_checkpoint()
    checkpoint["data"]["files"] = [[f.name, hash_source(f)] for f in files]
    checkpoint["choices"]["split"] = to_dict(rule)
    write_weights(model_of_checkpoint(checkpoint, "model", "MIT"), tmp_path / "model")

    def evaluate_on(*words: object) -> Result:
        arguments = ["evaluate", str(tmp_path / "model"), *map(str, words)]
        return CliRunner().invoke(main, arguments)

    divided = make_splits(read_datasets(files).frames, rule)
    result = evaluate_on(*files, "--split", "test", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    errors = json.loads((tmp_path / "out" / "errors.json").read_text())
    assert errors["test"]["all"]["frames"] == (divided == 2).sum() == 6
    for some in ([files[0]], files[::-1]):
        result = evaluate_on(*some, "--split", "test")
        assert result.exit_code == 2
        assert "divided by trajectory over all of a.xyz, b.xyz; give" in result.output
    assert evaluate_on(files[0], "--split", "all").exit_code == 0
    # Frames that the run never saw keep the splits of their file.
    write(tmp_path / "c.xyz", Atoms("OHH", WATER, info={"energy": -2000.0}))
    result = evaluate_on(tmp_path / "c.xyz", "--split", "test")
    assert result.exit_code == 2 and "hold no frames of the split" in result.output


def test_evaluate_reads_files_as_the_models_run_did(tmp_path: Path) -> None:
    file, groups = tmp_path / "a.xyz", tmp_path / "groups.npy"
    for index in range(10):
        atoms = Atoms("OHH", (1.0 + 0.01 * index) * WATER, info={"energy": -2000.0})
        write(file, atoms, append=True)
    np.save(groups, np.arange(10) // 3)
    checkpoint = random_checkpoint()
    checkpoint["data"]["files"] = [[file.name, hash_source(file)]]

    def model_of_run(by: str, source: Source) -> Path:
        checkpoint["data"]["options"] = [source.options()]
        checkpoint["choices"]["split"] = to_dict(SplitConfig(by=by))
        return write_weights(model_of_checkpoint(checkpoint, by, "MIT"), tmp_path / by)

    def evaluate_split(model: Path, split: str, *words: object) -> Result:
        options = ["--split", split, *map(str, words)]
        return CliRunner().invoke(main, ["evaluate", str(model), str(file), *options])

    model = model_of_run("trajectory", Source(str(file), groups=str(groups)))
    result = evaluate_split(model, "train")
    assert result.exit_code == 2 and "name it with --groups" in result.output
    result = evaluate_split(model, "train", "--groups", groups)
    assert result.exit_code == 0, result.output
    np.save(tmp_path / "other.npy", np.arange(10) // 2)
    result = evaluate_split(model, "train", "--groups", tmp_path / "other.npy")
    assert result.exit_code == 2 and "was trained on" in result.output
    # A file that was put into training whole has no test frames.
    model = model_of_run("source", Source(str(file), split="train"))
    result = evaluate_split(model, "test")
    assert result.exit_code == 2 and "hold no frames of the split" in result.output
    assert evaluate_split(model, "train").exit_code == 0


def test_evaluate_on_a_file_that_was_put_into_the_test_whole(tmp_path: Path) -> None:
    mine, held_out = write_two_files(tmp_path)
    held_out = dataclasses.replace(held_out, split="test")
    checkpoint = random_checkpoint()
    files = [[Path(s.path).name, hash_source(Path(s.path))] for s in (mine, held_out)]
    checkpoint["data"] |= {
        "files": files,
        "options": [mine.options(), held_out.options()],
    }
    rule = SplitConfig(by="trajectory", fractions=(0.7, 0.3, 0.0))
    checkpoint["choices"]["split"] = to_dict(rule)
    write_weights(model_of_checkpoint(checkpoint, "model", "MIT"), tmp_path / "model")

    def test_frames(*given: Source) -> int:
        out = tmp_path / f"out-{len(given)}"
        words = [*(s.path for s in given), "--split", "test", "--out", str(out)]
        result = CliRunner().invoke(main, ["evaluate", str(tmp_path / "model"), *words])
        assert result.exit_code == 0, result.output
        errors = json.loads((out / "errors.json").read_text())
        return int(errors["test"]["all"]["frames"])

    assert test_frames(mine, held_out) == 10
    assert test_frames(held_out) == 10  # whatever the other file is divided into


def test_a_file_of_another_kind_names_the_formats(tmp_path: Path) -> None:
    path = tmp_path / "water.pdb"
    path.write_text("HETATM    1  O   HOH")
    with pytest.raises(
        ValueError, match=r"none of the formats.*b'HETATM.*'openmm-se3 l"
    ):
        read_datasets([path])


def test_evaluate_warns_of_a_model_of_boxes_on_free_molecules(
    frames: list[Frame], tmp_path: Path
) -> None:
    checkpoint = random_checkpoint()
    checkpoint["data"]["surroundings"] = "periodic"
    model = model_of_checkpoint(checkpoint, "boxes", "MIT")
    with pytest.warns(UserWarning, match="boxes only, and 3 of these frames have none"):
        evaluate_model(model, Frames.of(frames[:3]))
