"""Damaged and hostile files are refused by name."""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from xyz_files import WATER, read_xyz, xyz_of

from openmm_se3.data.formats import hdf5_check, hdf5_probe
from openmm_se3.data.formats.hdf5 import read_hdf5
from openmm_se3.data.formats.registry import detect_format
from openmm_se3.data.formats.safe_hdf5 import open_hdf5, walk
from openmm_se3.data.formats.xyz_text import parse_comment, read_text_frames
from openmm_se3.data.frames import Frame
from openmm_se3.data.load import (
    Source,
    read_source,
)
from openmm_se3.data.self_energies import self_energies
from openmm_se3.neighbors import neighbor_pairs
from openmm_se3.units import HARTREE_TO_EV

GOOD = "2\nenergy=-1 \nH 0 0 0\nH 0 0 0.74\n"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("1000000000\n" + GOOD[2:], "line 1.*1000000000 atoms"),
        ("9" * 23 + "\n" + GOOD[2:], "line 1"),
        (GOOD + "1\nenergy=-1\nH 0 0 0\nH 0 0 1\n" + GOOD, "frame 2.*line 8"),
        (GOOD + "3\nenergy=-1\nH 0 0 0\nH 0 0 1\n" + GOOD, "frame 1.*line 9"),
        (GOOD + "\n\n2\nenergy=-1\nH 0 0 0\n\nH 0 0 1\n", "frame 1.*line 10"),
        (GOOD + "0\n\n", "frame 1.*no atoms"),
        (GOOD + "2\n", "frame 1.*ends"),
        (GOOD.replace("energy=-1", "Properties=F"), "Properties='F'"),
        (GOOD.replace("energy=-1", "Properties=species:S:1:pos:R"), "Properties"),
        (GOOD.replace("energy=-1", "Properties=species:S:1:pos:R:99999"), "Properties"),
        (
            GOOD.replace("energy=-1", "Properties=species:S:1:pos:R:2"),
            "line 3 has 4 columns",
        ),
        (GOOD.replace("energy=-1", "Properties=pos:R:3"), "columns"),
        (GOOD.replace("energy=-1", "energy=-1 temperature=hot"), "temperature"),
        (GOOD.replace("energy=-1", 'energy=-1 temperature="1 2"'), "temperature"),
        (GOOD.replace("0.74", "0.7x4"), "line 4.*0.7x4"),
        (GOOD.replace("0.74", "1e12"), "position is 1e\\+12"),
        (GOOD.replace("0.74", "nan"), "position is nan"),
        (GOOD.replace("-1 ", '-1 Lattice="1e9 0 0 0 5 0 0 0 5"'), "box vector is 1e"),
        (GOOD.replace("-1 ", '-1 Lattice="5 0 0 5 0 0 0 0 5"'), "no volume"),
        (GOOD.replace("-1 ", '-1 Lattice="5 0 0"'), "nine numbers"),
        (GOOD.replace("-1 ", '-1 Lattice="0 0 0 0 0 0 0 0 0" pbc="T T T"'), "pbc="),
        (GOOD.replace("-1 ", '-1 pbc="T T T"'), "Lattice is missing"),
        (GOOD.replace("-1 ", "1e30"), "energy is 1e\\+30"),
        (GOOD.replace("-1 ", "inf"), "energy is inf"),
        (GOOD.replace("-1 ", "-1 energy=5"), "energy stands twice"),
        (GOOD.replace("-1 ", '-1 cell="9 0 0 0 9 0 0 0 9"'), "cell=.*not read"),
        (
            GOOD.replace("-1 ", '-1 lattice="9 0 0 0 9 0 0 0 9" PBC="T T F"'),
            "some axes only",
        ),
        (GOOD.replace("energy=-1 ", "energy=None") + GOOD, "energy 'None'"),
    ],
)
def test_damaged_extended_xyz_names_the_place(
    text: str, place: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=place):
        read_xyz(tmp_path / "a.xyz", text)


def test_extended_xyz_that_others_write(tmp_path: Path) -> None:
    path = tmp_path / "d@1.xyz"
    text = GOOD + "\n\n" + GOOD.replace("-1 ", '-1 stress="0 0 0 0 0 0"') + "\n \n"
    assert len(read_xyz(path, text).frames) == 2
    byte_order_mark = "\ufeff" + GOOD.replace("\n", "\r\n")
    assert len(read_xyz(path, byte_order_mark).frames) == 1
    zeros = GOOD.replace("-1 ", '-1 Lattice="0 0 0 0 0 0 0 0 0"')
    assert read_xyz(path, zeros).frames[0].box is None
    boxed = GOOD.replace("-1 ", '-1 lattice="9 0 0 0 9 0 0 0 9"')
    assert read_xyz(path, boxed).frames[0].box.tolist() == (9 * np.eye(3)).tolist()
    free = boxed.replace("lattice", 'PBC="F F F" lattice')
    assert read_xyz(path, free).frames[0].box is None
    fortran = GOOD.replace("-1 ", "-0.25D+01")
    assert read_xyz(path, fortran).frames[0].energy == -2.5
    rows = "2\nProperties=Z:I:1:pos:R:3 energy=-1\n1 0 0 0\n8 0 0 1\n"
    assert read_xyz(path, rows).frames[0].numbers.tolist() == [1, 8]
    assert parse_comment('a=1 b = \'x y\' c="p \\"q\\"" word u=[1 2] n=007') == {
        **{"a": "1", "b": "x y", "c": 'p "q"', "word": "T", "u": "1 2", "n": "007"}
    }
    path.write_bytes(b"\x1f\x8b" + b"\x00" * 20)
    with pytest.raises(ValueError, match="compressed"):
        next(read_text_frames(path))


def test_a_line_without_an_end_is_not_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openmm_se3.data.formats import xyz_text

    monkeypatch.setattr(xyz_text, "MAX_LINE", 1000)
    path = tmp_path / "a.xyz"
    path.write_text("2\n" + "x" * 5000)
    with pytest.raises(ValueError, match="line 2 is longer"):
        next(read_text_frames(path))


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e20])
def test_impossible_forces_are_named_while_reading(
    value: float, unlike_frames: list[Frame], tmp_path: Path
) -> None:
    monomers = [f for f in unlike_frames if len(f.numbers) == 3][:4]
    forces = np.stack([f.forces for f in monomers])
    forces[2, 1, 0] = value
    text = "".join(
        xyz_of(f, f"energy={f.energy!r}", forces=forces[i])
        for i, f in enumerate(monomers)
    )
    with pytest.raises(ValueError, match="frame-2.*force"):
        read_xyz(tmp_path / "a.xyz", text)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["w/atomic_numbers"] = monomers[0].numbers
        file["w/coordinates"] = np.stack([f.positions for f in monomers])
        file["w/wb97x_dz.energy"] = [f.energy / HARTREE_TO_EV for f in monomers]
        file["w/wb97x_dz.forces"] = forces
    with pytest.raises(ValueError, match="frame 2 .*force"):
        read_source(Source(str(path)))


def header(text: str) -> bytes:
    body = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


def bytes_of(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "coord",
            header("{'descr':'<f8','fortran_order':False,'shape':(1000000000000,9)}"),
        ),
        ("coord", header("{'descr':'<f8','fortran_order':False,'shape':(-1,9)}")),
        ("coord", header("{'descr':'<f8','fortran_order':False,")),
        ("coord", header("{'descr':[('a','<f8')],'fortran_order':False,'shape':(9,)}")),
        ("coord", header("{'descr':'|O','fortran_order':False,'shape':(4,9)}")),
        ("coord", b"\x93NUMPY\x09\x00"),
        ("coord", b""),
        ("coord", bytes_of(np.float64(3.0))),
        ("coord", bytes_of(np.zeros((4, 8)))),
        ("coord", bytes_of(np.full((4, 9), 1e12))),
        ("force", bytes_of(np.zeros((9, 4)))),
        ("force", bytes_of(np.full((4, 9), np.inf))),
        ("force", bytes_of(np.zeros((4, 9)))[:-3]),
        ("box", bytes_of(np.full((4, 9), 1e12))),
        ("box", bytes_of(np.zeros((4, 9)))),
        ("energy", bytes_of(np.zeros(5))),
    ],
)
def test_damaged_numpy_files_of_deepmd_are_named(
    name: str, content: bytes, tmp_path: Path
) -> None:
    folder = tmp_path / "set.000"
    folder.mkdir()
    (tmp_path / "type_map.raw").write_text("O H")
    (tmp_path / "type.raw").write_text("0 1 1")
    rng = np.random.default_rng(0)
    np.save(folder / "coord.npy", rng.normal(size=(4, 9)))
    np.save(folder / "force.npy", rng.normal(size=(4, 9)))
    np.save(folder / "energy.npy", rng.normal(size=4))
    np.save(folder / "box.npy", np.tile(9.0 * np.eye(3).ravel(), (4, 1)))
    source = Source(str(tmp_path))
    assert len(read_source(source).frames) == 4
    (folder / f"{name}.npy").write_bytes(content)
    what = {"coord": "position", "force": "a force", "box": "box"}.get(name, name)
    with pytest.raises(ValueError, match=f"{name}.npy|set.000.*{what}"):
        read_source(source)


def test_a_file_on_which_the_hdf5_library_hangs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object of size 0 in the heap of texts is passed by for ever."""
    probe = tmp_path / "probe.py"
    text = hdf5_check.PROBE.read_text()
    probe.write_text(text.replace("CPU_SECONDS = 5", "CPU_SECONDS = 1"))
    monkeypatch.setattr(hdf5_check, "PROBE", probe)
    monkeypatch.setattr(hdf5_check, "_probes", {})
    path, broken = tmp_path / "a.h5", tmp_path / "b.h5"
    with h5py.File(path, "w") as file:
        file.attrs["format"], file.attrs["more"] = "some text", "other text"
    content = bytearray(path.read_bytes())
    size = content.index(b"GCOL") + 24
    content[size : size + 8] = bytes(8)
    broken.write_bytes(content)
    try:
        with pytest.raises(ValueError, match="b.h5.*does not end"):
            detect_format(broken)
        with open_hdf5(path) as file:  # the next file has a probe of its own
            assert file.attrs["format"] == "some text"
    finally:
        hdf5_check._end()


def test_a_sound_file_of_many_groups_has_time_for_each_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow machine 3,000 molecules took longer than the limit of a hang."""
    path = tmp_path / "many.h5"
    with h5py.File(path, "w") as file:
        for index in range(4 * hdf5_probe.OBJECTS_AT_A_TIME):
            file.create_group(f"{index}")
    renewed = []
    monkeypatch.setattr(hdf5_probe, "_renew_limit", lambda: renewed.append(path))
    hdf5_probe._read(str(path))
    assert len(renewed) == 1 + 4


def test_links_in_circles_and_deep_groups_end(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        # Two ways to the next group at each of 30 levels: 2^30 paths, 30 groups.
        group = file
        for _ in range(30):
            below = group.create_group("a")
            group["b"] = below
            group = below
        group["c"] = file["/"]
        group["molecule/coordinates"] = np.zeros((1, 1, 3))
        assert len(list(walk(file, lambda g: "coordinates" in g))) == 1
        for _ in range(10):
            group = group.create_group("deeper")
        with pytest.raises(ValueError, match="groups in each other"):
            list(walk(file, lambda g: False))


def test_arrays_that_compress_too_well_or_do_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from openmm_se3.data.formats import safe_hdf5

    path = tmp_path / "a.h5"
    n = 1_000_000
    with h5py.File(path, "w") as file:
        file["w/atomic_numbers"] = np.array([8, 1, 1])
        file["w/wb97x_dz.energy"] = np.zeros(1)
        for name in ("coordinates", "wb97x_dz.forces"):
            file.create_dataset(
                f"w/{name}", shape=(n, 3, 3), dtype="f8", compression="gzip",
                chunks=(n, 3, 3),
            )  # fmt: skip
            file[f"w/{name}"][0] = 0.0
    with pytest.raises(ValueError, match="declares 72000000 bytes"):
        read_source(Source(str(path)))
    monkeypatch.setattr(safe_hdf5, "available_memory", lambda: 1e-6)
    with pytest.raises(ValueError, match="memory"):
        read_hdf5(WATER[0])


def test_a_frame_of_many_atoms_is_checked_in_little_memory(tmp_path: Path) -> None:
    """All pairs of 30,000 atoms would take 22 GB for vectors alone."""
    rng = np.random.default_rng(0)
    n = 30_000
    frame = Frame(np.ones(n, dtype=int), rng.uniform(0, 60, (n, 3)), -1.0, None)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["w/atomic_numbers"] = frame.numbers.astype("u1")
        file["w/coordinates"] = frame.positions[None]
        file["w/wb97x_dz.energy"] = np.array([-1.0])
        file["w/wb97x_dz.forces"] = np.zeros((1, n, 3))
    from openmm_se3.data.checks.summary import inspect

    data = read_source(Source(str(path)))
    assert inspect(data, self_energies(data)).frames == 1


@pytest.mark.parametrize(
    ("positions", "cell"),
    [
        (np.eye(3) * 1e9, None),
        (np.eye(3) * np.nan, None),
        (np.eye(3), np.diag([20.0, 20.0, 1e9])),
        (np.eye(3), np.eye(3) * 0.01),
        (np.eye(3), np.array([[20.0, 0, 0], [0, 20, 0], [20, 20, 0]])),
        (np.eye(3), np.full((3, 3), np.nan)),
    ],
)
def test_neighbor_list_refuses_what_would_end_the_process(
    positions: np.ndarray, cell: np.ndarray | None
) -> None:
    box = None if cell is None else torch.tensor(cell)
    with pytest.raises(ValueError, match="units right"):
        neighbor_pairs(torch.tensor(positions), 6.0, box)
