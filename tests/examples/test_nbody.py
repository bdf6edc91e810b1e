"""The toy problem: its physics, the symmetry of its network, and that it learns."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from e3nn import o3

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from nbody import learning, run  # noqa: E402
from nbody.learning import NBodyConfig, Samples, split  # noqa: E402
from nbody.network import ParticleTransformer, layer_config  # noqa: E402
from nbody.particles import (  # noqa: E402
    HALF_WIDTH,
    LARGEST_FORCE,
    SAVED_EVERY,
    SPEED,
    TIME_STEP,
    forces,
    simulate,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def trajectories():
    return simulate(200, seed=3, steps=2000)


def test_forces_are_those_of_charges() -> None:
    x = np.array([[[0.0, 0, 0], [2.0, 0, 0], [0, 0, 4.0], [9.0, 9, 9], [9.0, 9, -9]]])
    q = np.array([[1.0, 1.0, -1.0, 1.0, 1.0]])
    exact = np.zeros((5, 3))
    for i in range(5):
        for j in range(5):
            if i != j:
                r = x[0, i] - x[0, j]
                exact[i] += q[0, i] * q[0, j] * r / np.linalg.norm(r) ** 3
    np.testing.assert_allclose(forces(x, q)[0], exact, rtol=1e-12)
    close = x.copy()
    close[0, 1] = [0.01, 0.0, 0.0]
    assert np.abs(forces(close, q)).max() == LARGEST_FORCE


def test_start_and_box(trajectories) -> None:
    assert trajectories.positions.shape == (200, 20, 5, 3)
    speeds = np.linalg.norm(trajectories.velocities[:, 0], axis=-1)
    np.testing.assert_allclose(speeds, SPEED, rtol=1e-5)
    assert trajectories.positions[:, 0].std() == pytest.approx(1.0, abs=0.05)
    assert np.abs(trajectories.positions).max() <= HALF_WIDTH
    assert set(np.unique(trajectories.charges)) == {-1.0, 1.0}
    again = simulate(200, seed=3, steps=200)
    np.testing.assert_array_equal(again.positions, trajectories.positions[:, :2])


def test_energy_stays_where_nothing_hits_a_wall_or_the_cap(trajectories) -> None:
    x = trajectories.positions.astype(float)
    # The saved velocities are from half a step before; a half kick brings them up.
    v = trajectories.velocities.astype(float)
    q = trajectories.charges.astype(float)
    energy, pulls = [], []
    for t in range(x.shape[1]):
        f = forces(x[:, t], q)
        kinetic = 0.5 * ((v[:, t] + 0.5 * TIME_STEP * f) ** 2).sum((1, 2))
        r = np.linalg.norm(x[:, t, :, None] - x[:, t, None], axis=-1)
        i, j = np.triu_indices(5, 1)
        energy.append(kinetic + (q[:, i] * q[:, j] / r[:, i, j]).sum(1))
        pulls.append(np.abs(f).max((1, 2)))
    # The first velocity is one at the same time as its positions.
    change = np.abs(np.ptp(np.array(energy[1:]), axis=0))
    calm = (np.abs(x).max((1, 2, 3)) < 0.95 * HALF_WIDTH) & (np.max(pulls, 0) < 10.0)
    assert calm.sum() > 20
    assert np.median(change[calm]) < 2e-3
    assert np.median(change[calm]) < 0.01 * np.abs(np.array(energy)).mean()


def test_baselines_are_those_of_the_protocol() -> None:
    made = simulate(300, seed=0)
    ahead = 500 // SAVED_EVERY
    x, v = made.positions, made.velocities
    moved, changed = x[:, ahead:] - x[:, :-ahead], v[:, ahead:] - v[:, :-ahead]
    straight = moved - 500 * TIME_STEP * v[:, :-ahead]
    nothing = 0.5 * ((moved**2).mean() + (changed**2).mean())
    constant = 0.5 * ((straight**2).mean() + (changed**2).mean())
    assert nothing == pytest.approx(0.163, rel=0.1)
    assert constant == pytest.approx(0.143, rel=0.1)


def test_network_turns_with_its_input() -> None:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    network = ParticleTransformer(layer_config(channels=8, key_channels=4, heads=2))
    x, v = torch.randn(3, 5, 3), torch.randn(3, 5, 3)
    q = torch.tensor([[1.0, -1.0, 1.0, 1.0, -1.0]] * 3)
    rotation = o3.rand_matrix()
    out = network(x, v, q)
    turned = network(x @ rotation.T + torch.tensor([1.0, -2.0, 3.0]), v @ rotation.T, q)
    torch.testing.assert_close(turned, out @ rotation.T, rtol=1e-10, atol=1e-10)
    assert (out - out.mean((0, 1))).abs().max() > 1e-3
    # It must see each of its inputs.
    for other in (
        network(1.1 * x, v, q),
        network(x, 1.1 * v, q),
        network(x, v, q.roll(1, 1)),
    ):
        assert (other - out).abs().max() > 1e-4


def test_command_learns_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["--trajectories", "60", "--batch-size", "16", "--out", str(out)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = CliRunner().invoke(run.command, [*command, "--steps", "60"])
        assert result.exit_code == 0, result.output
        assert "0.0389" in result.output
        (row,) = (out / learning.HISTORY).read_text().splitlines()[1:]
        assert row.startswith("60,")
        errors = json.loads((out / "errors.json").read_text())
        assert errors["network"] < 0.97 * errors["constant velocity"]
        assert (out / "trajectories.png").stat().st_size > 0
        refused = CliRunner().invoke(run.command, command)
        assert refused.exit_code == 2 and "--resume" in refused.output


def short_run(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[NBodyConfig, dict[str, Samples]]:
    """Return settings and data of a run that is validated every five steps."""
    monkeypatch.setattr(learning, "VALIDATE_EVERY", 5)
    layers = layer_config(channels=8, key_channels=4)
    return NBodyConfig(40, steps, 64, 5e-3, 1, layers), split(simulate(40, 1, 1000))


def test_a_run_stopped_by_ctrl_c_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data = short_run(23, monkeypatch)

    def ctrl_c(done: int, total: int) -> None:
        if done == 12:
            os.kill(os.getpid(), signal.SIGINT)

    results = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, sittings in {"whole": [None], "stopped": [ctrl_c, None]}.items():
            for number, progress in enumerate(sittings):
                learning.open_folder(tmp_path / name, config, resume=number > 0)
                if progress:
                    with pytest.raises(KeyboardInterrupt):
                        learning.train(config, data, tmp_path / name, progress)
                else:
                    results[name] = learning.train(config, data, tmp_path / name)
    for (key, whole), stopped in zip(
        results["whole"].state_dict().items(),
        results["stopped"].state_dict().values(),
        strict=True,
    ):
        assert torch.equal(whole, stopped), key
    histories = [(tmp_path / name / learning.HISTORY).read_text() for name in results]
    assert histories[0] == histories[1]
    assert len(histories[0].splitlines()) == 1 + 23 // 5


def test_a_killed_run_goes_on_from_its_last_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data = short_run(20, monkeypatch)

    def kill(done: int, total: int) -> None:
        if done == 13:
            raise MemoryError

    learning.open_folder(tmp_path, config, resume=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(MemoryError):
            learning.train(config, data, tmp_path, kill)
        started: list[int] = []
        learning.train(config, data, tmp_path, lambda done, _: started.append(done))
    assert started[0] == 10
    rows = (tmp_path / learning.HISTORY).read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == [5, 10, 15, 20]
    kept = torch.load(tmp_path / learning.LAST, weights_only=True)
    assert [row["step"] for row in kept["history"]] == [5, 10, 15, 20]


def test_resume_of_another_run_is_refused(tmp_path: Path) -> None:
    config = NBodyConfig(40, 8, 64, 5e-3, 1, layer_config())
    learning.open_folder(tmp_path, config, resume=False)
    learning.open_folder(tmp_path, config, resume=True)
    with pytest.raises(FileExistsError, match="--resume"):
        learning.open_folder(tmp_path, config, resume=False)
    other = dataclasses.replace(config, seed=2)
    with pytest.raises(ValueError, match="holds another run: seed is 1 there, 2 now"):
        learning.open_folder(tmp_path, other, resume=True)
