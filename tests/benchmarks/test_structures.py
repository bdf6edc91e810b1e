"""Structures of the benchmarks: clusters of a box, likeness of frames."""

from __future__ import annotations

from pathlib import Path

import ase.io
import liquid_clusters
import numpy as np
import pytest
import splits
from click.testing import CliRunner
from scipy.spatial.transform import Rotation

from openmm_se3.data.frames import Frame, Frames


def test_clusters_are_cut_whole_across_the_faces_of_a_box() -> None:
    lengths = np.array([10.0, 12.0, 11.0])
    molecule = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])
    oxygens = [[9.5, 6.0, 5.0], [1.0, 6.0, 5.0], [5.0, 6.0, 5.0], [9.5, 3.0, 5.0]]
    positions = np.array(oxygens)[:, None] + molecule
    found = liquid_clusters.cut(positions, lengths, center=0, molecules=3)
    # The second is 1.5 A away through the face, the fourth 3 A, the third 4.5 A.
    shifts = np.array([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [0.0, -3.0, 0.0]])
    np.testing.assert_allclose(found, (shifts[:, None] + molecule).reshape(-1, 3))


def test_clusters_of_a_simulation_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liquid_clusters, "EQUILIBRATION_PS", 0.01)
    monkeypatch.setattr(liquid_clusters, "INTERVAL_PS", 0.005)
    out = tmp_path / "clusters.xyz"
    arguments = ["--clusters", "2", "--molecules", "2", "--out", str(out)]
    done = CliRunner().invoke(liquid_clusters.main, arguments)
    assert done.exit_code == 0, done.output
    frames = ase.io.read(out, ":")
    assert [str(frame.symbols) for frame in frames] == ["OH2OH2"] * 2
    for frame in frames:
        bonds = [frame.get_distance(o, h) for o in (0, 3) for h in (o + 1, o + 2)]
        assert 0.8 < min(bonds) and max(bonds) < 1.2
        assert 2.3 < frame.get_distance(0, 3) < 3.5


def test_distance_of_frames_after_superposition() -> None:
    x = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])
    turned = x @ Rotation.from_rotvec([0.3, -1.0, 0.5]).as_matrix().T + 5.0
    assert splits.superposed_distance(x, turned) == pytest.approx(0.0, abs=1e-7)
    # Two of three atoms further apart by 2 * 0.1 A along their line.
    longer = x + np.array([[0.0] * 3, [0.1, 0.0, 0.0], [-0.1, 0.0, 0.0]])
    expected = 0.1 * np.sqrt(2.0 / 3.0)
    assert splits.superposed_distance(longer, turned) == pytest.approx(expected)


def test_share_of_neighbors_that_frames_have_in_common() -> None:
    """Of four oxygens in a row, across the face of the box too."""

    def frame(x: list[float]) -> Frame:
        positions = np.array([[value, 0.0, 0.0] for value in x])
        forces = np.zeros_like(positions)
        box = np.diag([20.0, 20.0, 20.0])
        return Frame(np.full(4, 8), positions, 0.0, forces, box=box)

    test = Frames.of([frame([0.0, 3.0, 6.0, 18.0])])  # 0-1, 1-2 and 3-0
    train = Frames.of([frame([0.0, 3.0, 9.0, 18.0]), frame([0.0, 5.0, 10.0, 15.0])])
    found = splits.shared_pairs(train, test)
    assert found["shared_with_nearest"] == pytest.approx(2 / 3)
    assert found["by_chance"] == pytest.approx(2 / 12)
