"""Files with wrong content or options are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from data_files import WATER_DATA, by_size, write_conformers, write_deepmd

from openmm_se3.cli.shared import source_options
from openmm_se3.data.formats import registry
from openmm_se3.data.frames import Frame
from openmm_se3.data.load import (
    Source,
    read_source,
    read_sources,
)


def drop(group: str, name: str) -> Callable[[h5py.File], None]:
    return lambda file: file[group].__delitem__(name)


def replace(group: str, name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[group][name]
        file[group][name] = value

    return change


H2O = "set/H2O1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(H2O, "wb97x_dz.energy"), r"H2O1 lacks 'wb97x_dz.energy'; it has \['at"),
        (replace(H2O, "wb97x_dz.forces", np.zeros((4, 3, 3))), "H2O1.*shape"),
        (replace(H2O, "coordinates", np.zeros((4, 3, 3))), "H2O1.*should be"),
        (replace(H2O, "coordinates", h5py.SoftLink("/x")), "link to elsewhere"),
        (replace(H2O, "atomic_numbers", np.array([b"X"] * 3)), "holds no elements"),
    ],
)
def test_wrong_content_names_the_group(
    change: Callable[[h5py.File], None],
    message: str,
    frames: list[Frame],
    tmp_path: Path,
) -> None:
    path = write_conformers(tmp_path / "a.h5", frames)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ValueError, match=message):
        read_source(Source(str(path), format="ani1x"))


def test_truncated_file(frames: list[Frame], tmp_path: Path) -> None:
    path = write_conformers(tmp_path / "a.h5", frames)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="cut short or damaged"):
        read_source(Source(str(path)))


def test_no_damage_ends_in_a_raw_error(frames: list[Frame], tmp_path: Path) -> None:
    whole = write_conformers(tmp_path / "a.h5", frames).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        content = bytearray(whole)
        start = int(rng.integers(len(content)))
        content[start : start + 64] = rng.bytes(64)
        (tmp_path / "b.h5").write_bytes(content)
        try:
            with np.errstate(all="ignore"):  # numbers may be damaged too
                read_source(Source(str(tmp_path / "b.h5")))
        except ValueError:
            refused += 1
    assert refused > 5


def test_deepmd_of_mixed_type_is_refused(frames: list[Frame], tmp_path: Path) -> None:
    monomers = by_size(frames)[3]
    folder = write_deepmd(tmp_path / "water", monomers)
    (folder / "type.raw").write_text("0 1 -1")
    with pytest.raises(ValueError, match=r"type.raw types from -1 to 1"):
        read_source(Source(str(folder)))
    (folder / "type.raw").write_text("0 0 0")  # what stands there in that format
    types = np.tile([0, 1, 1], (len(monomers), 1))
    np.save(folder / "set.000" / "real_atom_types.npy", types)
    with pytest.raises(ValueError, match="mixed type.*dpdata"):
        read_source(Source(str(folder)))


def test_unknown_and_foreign_files(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(ValueError, match="no group holds 'coordinates'"):
        read_source(Source(str(tmp_path / "a.h5")))
    with pytest.raises(FileNotFoundError):
        read_source(Source(str(tmp_path / "b.h5")))
    with pytest.raises(ValueError, match="without type.raw"):
        read_source(Source(str(tmp_path)))
    (tmp_path / "c.xyz").write_text("2\n\nH 0 0 0\n")
    with pytest.raises(ValueError, match="c.xyz"):
        read_source(Source(str(tmp_path / "c.xyz")))
    (tmp_path / "d.xyz").write_text("1\nProperties=species:S:1:pos:R:3 e=1\nH 0 0 0\n")
    with pytest.raises(ValueError, match="neither an energy"):
        read_source(Source(str(tmp_path / "d.xyz")))
    with pytest.raises(ValueError, match=r"no energy under 'f'; there: \['e'\]"):
        read_source(Source(str(tmp_path / "d.xyz"), energy_key="f"))


def test_the_command_line_knows_the_formats() -> None:
    assert source_options.FORMATS == ("auto", *registry.FORMATS)


def test_options_that_a_format_lacks(frames: list[Frame], tmp_path: Path) -> None:
    path = write_conformers(tmp_path / "a.h5", frames)
    ours = str(WATER_DATA[0])
    with pytest.raises(ValueError, match="openmm-se3 has no option energy_unit"):
        read_source(Source(ours, energy_unit="hartree"))
    with pytest.raises(ValueError, match=r"energy_unit must be one of \['eV'"):
        Source("a.xyz", energy_unit="Hartree")
    with pytest.raises(ValueError, match="given twice"):
        read_sources([Source(str(path)), Source(str(path))])
