"""Which format a file of labels has."""

from __future__ import annotations

from pathlib import Path

import h5py

from openmm_se3.data.formats.hdf5 import FORMAT

XYZ_SUFFIXES = (".xyz", ".extxyz")


def detect_format(path: Path) -> str:
    """Return the format of a file or folder, a key of ``sources.FORMATS``.

    Raises:
        FileNotFoundError: There is nothing of this name.
        ValueError: It is none of them.
    """
    from openmm_se3.data.formats import ani as conformers
    from openmm_se3.data.formats.safe_hdf5 import attribute, open_hdf5

    if not path.exists():
        raise FileNotFoundError(f"no data file {path}")
    if path.is_dir():
        if (path / "type.raw").is_file():
            return "deepmd"
        raise ValueError(f"{path} is a folder without type.raw; name a file")
    if path.suffix.lower() in XYZ_SUFFIXES:
        return "extxyz"
    if not h5py.is_hdf5(path):
        with open(path, "rb") as raw:
            start = raw.read(20)
        raise ValueError(
            f"{path} is none of the formats that hold labels: HDF5 (of openmm-se3, "
            f"ANI-1, ANI-1x, COMP6, TorchANI, SPICE), extended XYZ "
            f"({', '.join(XYZ_SUFFIXES)}) and folders of DeePMD-kit; it "
            f"starts with {start!r}; structures without energies and forces get them "
            "from 'openmm-se3 label'"
        )
    with open_hdf5(path) as file:
        if attribute(file, "format") == FORMAT:
            return "openmm-se3"
    found = conformers.detect(path)
    if found is None:
        raise ValueError(
            f"{path} is HDF5 but neither ours nor of ANI-1, ANI-1x, COMP6, TorchANI or "
            "SPICE: no group holds 'coordinates', or 'conformations' and "
            "'dft_total_energy'"
        )
    return found
