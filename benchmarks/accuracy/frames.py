"""The frames that all networks are compared on, in the files that each of them reads.

| set          | frames                            | level of theory          |
|--------------|-----------------------------------|--------------------------|
| water        | 1 to 6 molecules, in models/water | wB97X/6-31G(d)           |
| liquid-water | 64 molecules in a periodic box    | PBE0 + TS                |
| dipeptides   | SPICE dipeptides, 42 to 51 atoms  | wB97M-D3(BJ)/def2-TZVPPD |

Splits: those of water are stored in its files; the liquid is divided by whole groups of
groups.npy, since most frames have a near twin; dipeptides are tested on val.xyz, and a
tenth of train.xyz validates.

Energies are those against atoms, E - sum of e_Z, where least squares fit e_Z to the
training frames: the same labels for every network, small enough for float32.

Files of a set, for each split S:

    S.npz   arrays of ours, eV and A (labels.py); predictions are compared with these
    S.xyz   extended XYZ with REF_energy and REF_forces, eV and eV/A: MACE, NequIP
    S.h5    HDF5 of TorchMD-Net, one group a frame, kcal/mol and kcal/mol/A

TorchMD-Net gets kcal/mol, as in its own examples, because what it starts from and where
it clips gradients is made for that.  Its format has no box; it gets that of S.npz.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from labels import Labels

from openmm_se3.data.dataset import Dataset
from openmm_se3.data.frames import SPLITS, Frames
from openmm_se3.data.load import (
    Source,
    read_datasets,
    read_source,
    read_sources,
)
from openmm_se3.data.self_energies import least_squares
from openmm_se3.data.splits import SplitConfig
from openmm_se3.files import atomic_write
from openmm_se3.training.prepare import divide
from openmm_se3.units import EV_TO_KCAL_PER_MOL

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared/data"


@dataclasses.dataclass(frozen=True)
class FrameSet:
    """Frames with their splits, and what all networks trained on them share.

    Attributes:
        read: Reads them, given the folder of the data that this repository lacks.
        elements: Chemical symbols.
        cutoff: Cutoff of every network, A.
        batch_atoms: Atoms of a batch, at most.
        molecule_atoms: Atoms of a molecule, for energies per molecule; None where a
            frame is one molecule.
    """

    read: Callable[[Path], Dataset]
    elements: tuple[str, ...]
    cutoff: float
    batch_atoms: int
    molecule_atoms: int | None


def read_water(shared: Path) -> Dataset:
    """Read the water clusters; their files name the split of each frame."""
    folder = ROOT / "models/water/data"
    return read_datasets([folder / f"water{n}.h5" for n in range(1, 7)])


def read_liquid_water(shared: Path) -> Dataset:
    """Read the liquid, divided by groups of frames that resemble each other."""
    folder = shared / "liquid-water-pbe0ts"
    groups = str(folder / "groups.npy")
    dataset = read_source(Source(str(folder), groups=groups, level="PBE0+TS"))
    return divide(dataset, SplitConfig("trajectory", (0.8, 0.1, 0.1), seed=1))


def read_dipeptides(shared: Path) -> Dataset:
    """Read the dipeptides; a tenth of the training file validates."""
    folder = shared / "spice-dipeptides"
    level = "wB97M-D3(BJ)/def2-TZVPPD"
    dataset = read_sources(
        [
            Source(str(folder / name), level=level, split=split)
            for name, split in (("train.xyz", None), ("val.xyz", "test"))
        ]
    )
    return divide(dataset, SplitConfig("trajectory", (0.9, 0.1, 0.0), seed=1))


SETS = {
    "water": FrameSet(read_water, ("H", "O"), 6.0, 96, 3),
    "liquid-water": FrameSet(read_liquid_water, ("H", "O"), 5.0, 192, 3),
    "dipeptides": FrameSet(read_dipeptides, ("H", "C", "N", "O"), 5.0, 192, None),
}


def labels(frames: Frames, atomic_energies: dict[int, float]) -> Labels:
    """Return frames as arrays, energies against those of the atoms (eV)."""
    listed = list(frames)
    none = np.zeros((3, 3))
    return Labels(
        n_atoms=frames.n_atoms.astype(int),
        numbers=np.concatenate([frame.numbers for frame in listed]).astype(int),
        positions=np.concatenate([f.positions for f in listed]).astype(float),
        boxes=np.array([none if f.box is None else f.box for f in listed], dtype=float),
        energies=frames.column("energy") - frames.isolated_energies(atomic_energies),
        forces=np.concatenate([frame.forces for frame in listed]).astype(float),
    )


def export(dataset: Dataset, folder: Path) -> None:
    """Write the files of a set, those of one split after another."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_energies = least_squares(dataset.select("train")).energies
    for split in SPLITS:
        exported = labels(dataset.select(split), atomic_energies)
        write_xyz(folder / f"{split}.xyz", exported)
        write_torchmd(folder / f"{split}.h5", exported)
        exported.save(folder / f"{split}.npz")


def write_xyz(path: Path, exported: Labels) -> None:
    """Write extended XYZ under the names that MACE looks for."""
    import ase.io

    structures = []
    for index in range(len(exported)):
        frame = exported.take(np.array([index]))
        box = frame.boxes[0]
        atoms = ase.Atoms(frame.numbers, frame.positions, cell=box, pbc=box.any())
        atoms.info["REF_energy"] = float(frame.energies[0])
        atoms.arrays["REF_forces"] = frame.forces
        structures.append(atoms)
    with atomic_write(path) as temporary:
        ase.io.write(temporary, structures, format="extxyz")


def write_torchmd(path: Path, exported: Labels) -> None:
    """Write the HDF5 file of TorchMD-Net, which reads its groups by name."""
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        for index in range(len(exported)):
            frame = exported.take(np.array([index]))
            group = file.create_group(f"{index:06d}")
            group["types"] = frame.numbers[None]
            group["pos"] = frame.positions[None]
            group["energy"] = frame.energies[:, None] * EV_TO_KCAL_PER_MOL
            group["forces"] = frame.forces[None] * EV_TO_KCAL_PER_MOL
