"""Files are written whole or not at all, and reach the disk before their name does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from openmm_se3.files import atomic_write, sha256


def test_content_is_on_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut between any two of these leaves the old file or the new one."""
    events: list[tuple[str, int]] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        events.append(("sync", os.fstat(descriptor).st_ino))
        real_sync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        events.append(("rename", self.stat().st_ino))
        return real_replace(self, target)

    path = tmp_path / "result.json"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        patch.setattr(Path, "replace", replace)
        with atomic_write(path) as temporary:
            temporary.write_text("new")
    file, folder = path.stat().st_ino, tmp_path.stat().st_ino
    assert events == [("sync", file), ("rename", file), ("sync", folder)]
    assert path.read_text() == "new"


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(KeyError), atomic_write(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise KeyError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_hash_of_a_file_longer_than_a_block(tmp_path: Path) -> None:
    """Of 3 MB of zeros, as sha256sum gives it."""
    path = tmp_path / "zeros"
    path.write_bytes(bytes(3_000_000))
    expected = "35bce4eae54ec8e6cc2868baa8d157914d6ae2858811b4cc0c078c94460fa26f"
    assert sha256(path) == expected
