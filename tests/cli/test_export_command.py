"""The command that exports a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner
from model_files import description_of, write_pdb
from openmm import app, unit
from random_model import (
    SMALLEST,
    WATER,
    random_checkpoint,
    topology_of,
)

from openmm_se3 import cli
from openmm_se3.export import CHECKED_SIZES
from openmm_se3.model_file import load_model
from openmm_se3.training.checkpoint import save_checkpoint


def test_a_checkpoint_becomes_a_model(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    save_checkpoint(run / "best.pt", random_checkpoint(**SMALLEST))
    for source, option in ((run, "--license"), (run / "best.pt", "--licence")):
        out = tmp_path / f"from-{source.name}"
        arguments = ["export", str(source), "--out", str(out), option, "CC0-1.0"]
        result = CliRunner().invoke(cli.main, arguments)
        assert result.exit_code == 0, result.output
        assert ("--licence is now --license" in result.output) == (source != run)
        assert result.output.count("export: comparing") == 2 * len(CHECKED_SIZES)
        assert load_model(out).metadata["license"] == "CC0-1.0"
        assert load_model(out).metadata["name"] == out.name
        again = CliRunner().invoke(cli.main, arguments)
        assert again.exit_code == 2
        assert "--overwrite replaces it" in again.output
    assert CliRunner().invoke(cli.main, [*arguments, "--overwrite"]).exit_code == 0


def test_a_checkpoint_can_be_baked_at_once(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "best.pt", random_checkpoint(**SMALLEST))
    pdb = write_pdb(tmp_path / "h.pdb", ["H", "H"], np.zeros((2, 3)))
    output = tmp_path / "h2.pt"
    arguments = ["export", str(tmp_path), "--topology", str(pdb), "--out", str(output)]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 0, result.output
    energy, forces = torch.jit.load(output)(torch.tensor([[0.0, 0, 0], [0.08, 0, 0]]))
    assert forces.shape == (2, 3)


def test_what_is_no_checkpoint_is_refused(exported_model: Path, tmp_path: Path) -> None:
    for source in (
        exported_model,
        exported_model / "model.pt",
        tmp_path / "nothing.pt",
    ):
        arguments = ["export", str(source), "--out", str(tmp_path / "out")]
        result = CliRunner().invoke(cli.main, arguments)
        assert result.exit_code == 2, result.output
        assert source.name in result.output
        assert "Traceback" not in result.output
        assert not (tmp_path / "out").exists()


def test_a_model_is_not_exported_again(exported_model: Path, tmp_path: Path) -> None:
    for source in ("water", str(exported_model), str(exported_model / "model.pt")):
        arguments = ["export", source, "--out", str(tmp_path / "out")]
        result = CliRunner().invoke(cli.main, arguments)
        assert result.exit_code == 2, result.output
        assert f"{source} is a model already" in result.output
        assert "give --topology FILE.pdb" in result.output


def test_a_run_keeps_its_folder_to_itself(tmp_path: Path) -> None:
    """A model in the folder of a run would hide the run from the next export."""
    save_checkpoint(tmp_path / "best.pt", random_checkpoint(**SMALLEST))
    for more in ([], ["--overwrite"]):
        arguments = ["export", str(tmp_path), "--out", str(tmp_path), *more]
        result = CliRunner().invoke(cli.main, arguments)
        assert result.exit_code == 2
        assert "is the folder of a training run" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_a_folder_that_is_neither_run_nor_model_is_called_so(tmp_path: Path) -> None:
    arguments = ["export", str(tmp_path), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 2
    assert "neither a training run, which has a best.pt, nor a model" in result.output


def test_the_structure_kept_for_checks_can_be_given(tmp_path: Path) -> None:
    checkpoint, start = tmp_path / "best.pt", tmp_path / "water.pdb"
    save_checkpoint(checkpoint, random_checkpoint(**SMALLEST))
    out = tmp_path / "model"
    arguments = ["export", str(checkpoint), "-o", str(out), "--reference", str(start)]
    for box in (None, 10.0 * np.eye(3)):
        topology = topology_of(["O", "H", "H"], box)
        with start.open("w") as file:
            app.PDBFile.writeFile(topology, WATER * unit.angstrom, file)
        result = CliRunner().invoke(cli.main, [*arguments, "--overwrite"])
        if box is None:
            assert result.exit_code == 0, result.output
            reference = description_of(out)["reference"]
            assert reference["symbols"] == ["O", "H", "H"]
            np.testing.assert_allclose(reference["positions"], WATER, atol=1e-3)
        else:
            assert result.exit_code == 2
            assert "has a box: give free molecules" in result.output
