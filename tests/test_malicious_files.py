"""No code in a model file or checkpoint runs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from model_files import write_weights
from random_model import (
    topology_of,
)
from torch import Tensor, nn

from openmm_se3 import SE3Potential, cli
from openmm_se3.description import ModelFileError
from openmm_se3.model_file import load_model


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


class MaliciousModule(nn.Module):
    """Writes a file when it is loaded, with TorchScript's own means."""

    def __init__(self, canary: str) -> None:
        super().__init__()
        self.canary = canary
        self.content = torch.zeros(1)

    def forward(self, positions: Tensor) -> Tensor:
        return positions.sum()

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, str, bool]:
        return self.content, self.canary, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, str, bool]) -> None:
        self.content, self.canary, self.training = state
        torch.save(self.content, self.canary)


@pytest.fixture
def malicious_files(model_copy: Path, tmp_path: Path) -> tuple[Path, dict[str, Path]]:
    """Files that create the first path if any code in them runs."""
    canary = tmp_path / "canary"
    files = {name: tmp_path / f"{name}.pt" for name in ("pickle", "torch", "script")}
    files["pickle"].write_bytes(pickle.dumps(Malicious(canary)))
    torch.save({"weight": Malicious(canary)}, files["torch"])
    script = torch.jit.script(MaliciousModule(str(canary)))
    torch.jit.save(script, files["script"])
    parts = {
        n: (model_copy / n).read_bytes() for n in ("config.json", "weights.safetensors")
    }
    files["script with a true model"] = tmp_path / "both.pt"
    torch.jit.save(script, files["script with a true model"], _extra_files=parts)
    files["pickled weights"] = model_copy
    write_weights(model_copy, pickle.dumps(Malicious(canary)))
    return canary, files


def test_the_malicious_files_would_do_it(
    malicious_files: tuple[Path, dict[str, Path]],
) -> None:
    """The control of the tests below."""
    canary, files = malicious_files
    pickle.loads(files["pickle"].read_bytes())
    canary.rmdir()
    torch.load(files["torch"], weights_only=False)
    canary.rmdir()
    for name in ("script", "script with a true model"):
        torch.jit.load(files[name])
        canary.unlink()


def test_no_code_in_a_model_file_runs(
    malicious_files: tuple[Path, dict[str, Path]],
) -> None:
    canary, files = malicious_files
    for name, path in files.items():
        if name == "script with a true model":
            # The model is read, the script beside it is not.
            potential = SE3Potential(path)
            potential.createSystem(topology_of(["O"]))
            assert potential.energy_and_forces([8], [[0.0, 0.0, 0.0]])[0] == (
                pytest.approx(0.0, abs=1e-5)
            )
        else:
            with pytest.raises(ModelFileError):
                load_model(path)
        assert not canary.exists(), name


def test_no_code_in_a_checkpoint_runs(
    malicious_files: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    canary, files = malicious_files
    for path in files.values():
        arguments = ["export", str(path), "--out", str(tmp_path / "out")]
        result = CliRunner().invoke(cli.main, arguments)
        assert result.exit_code == 2, result.output
        assert "Traceback" not in result.output
        assert not canary.exists()
        assert not (tmp_path / "out").exists()
