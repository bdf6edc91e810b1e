"""What the comparison with other networks needs: data, code, environments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import compare
import environments
import nvidia_network
import pytest
import torch
import train_nvidia
from click.testing import CliRunner

from openmm_se3.training.batches import import_dgl


def test_missing_data_are_named(tmp_path: Path) -> None:
    arguments = ["--short", "--set", "dipeptides", "--network", "ours"]
    folders = ["--shared", str(tmp_path), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(compare.main, [*arguments, *folders])
    assert done.exit_code == 1
    assert "spice-dipeptides/train.xyz; --shared names its folder" in done.output


def test_softmax_over_edges_can_be_differentiated_twice() -> None:
    dgl = import_dgl()
    graph = dgl.graph(([0, 1, 2, 3, 0, 1], [1, 2, 1, 1, 2, 0]))
    logits = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    ours = nvidia_network.edge_softmax(graph, logits)
    theirs = dgl.ops.edge_softmax(graph, logits)
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=0.0)
    assert torch.autograd.gradgradcheck(
        lambda x: nvidia_network.edge_softmax(graph, x), logits
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="DGL may be built for GPUs")
def test_a_dgl_without_gpus_is_named() -> None:
    train_nvidia.require_dgl_on("cpu")
    with pytest.raises(ValueError, match="cannot put a graph on cuda:0"):
        train_nvidia.require_dgl_on("cuda:0")


@pytest.mark.parametrize(
    ("network", "decisive"),
    [
        ("ours", ["compiled/source/layer.h", "nn/transformer.py", "training/loss.py"]),
        ("nvidia", ["graphs.py", "nvidia_network.py", "training/presets.py"]),
        ("mace", ["devices.py", "train_mace.py"]),
    ],
)
def test_code_that_decides_a_result(network: str, decisive: list[str]) -> None:
    names = [str(path) for path in compare.code_of(network)]
    assert all(Path(name).is_file() for name in names)
    for wanted in [*decisive, "budget.py"]:
        assert any(name.endswith(wanted) for name in names), wanted


def test_missing_files_of_nvidia_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not hold NVIDIA's"):
        nvidia_network.import_se3_transformer(tmp_path)


def test_files_of_nvidia_are_fetched_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = tmp_path / "origin"
    (origin / environments.NVIDIA_FOLDER).mkdir(parents=True)
    (origin / environments.NVIDIA_FOLDER / "setup.py").write_text("")
    (origin / "other").mkdir()
    (origin / "other/large.bin").write_text("not wanted")

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(origin), "-c", "user.name=a", "-c", "user.email=b"]
        done = subprocess.run(
            [*command, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "all")
    monkeypatch.setattr(environments, "NVIDIA_COMMIT", git("rev-parse", "HEAD"))
    folder = tmp_path / "environments"
    place = environments.nvidia_source(folder, str(origin))
    assert (place / "setup.py").is_file()
    assert not (folder / "nvidia/other").exists()
    assert environments.nvidia_source(folder, "nowhere") == place


def test_an_unfinished_environment_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def create(place: Path, with_pip: bool) -> None:
        assert not place.exists()
        (place / "lib").mkdir(parents=True)

    def run(command: list[str], check: bool) -> None:
        calls.append(str(command[-1]))
        if len(calls) == 1:
            raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(environments.venv, "create", create)
    monkeypatch.setattr(environments, "_site_packages", lambda p: p.parents[1] / "lib")
    monkeypatch.setattr(environments.subprocess, "run", run)
    with pytest.raises(subprocess.CalledProcessError):
        environments.python_of("mace", tmp_path)
    python = environments.python_of("mace", tmp_path)
    assert environments.python_of("mace", tmp_path) == python
    assert calls == ["mace-torch==0.3.16"] * 2
    parents = (tmp_path / "mace/lib/parent.pth").read_text().split()
    assert any((Path(parent) / "torch").is_dir() for parent in parents)
    assert environments.python_of("ours", tmp_path) == Path(sys.executable)
