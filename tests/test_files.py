"""Files are written whole or not at all, and reach the disk before their name does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from openmm_se3.data.labeling.journal import Journal
from openmm_se3.files import atomic_write, sha256
from openmm_se3.simulation.reporters import open_at, synced_size


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


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_result_is_as_readable_as_other_files(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with atomic_write(tmp_path / "result.json") as temporary:
            temporary.write_text("{}")
    finally:
        os.umask(before)
    assert (tmp_path / "result.json").stat().st_mode & 0o777 == 0o666 & ~mask


def test_what_is_counted_or_promised_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes of a checkpoint, and a label's line in the journal."""
    sizes: list[int] = []
    real_sync = os.fsync

    def sync(descriptor: int) -> None:
        sizes.append(os.fstat(descriptor).st_size)
        real_sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    with open_at(tmp_path / "frames", 0) as file:
        file.write(b"12345")
        assert synced_size(file) == 5
    assert sizes == [5]
    with Journal(tmp_path / "journal") as journal:
        journal.append("one", {"energy": -1.5})
        assert sizes[1:] == [(tmp_path / "journal").stat().st_size]
        journal.append("two", {"energy": -2.5})
        assert sizes[2:] == [(tmp_path / "journal").stat().st_size]


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
