"""Small good files of every format that is read; the fuzzer mutates copies of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np

from openmm_se3.data.dataset import Dataset
from openmm_se3.data.formats.hdf5 import write_hdf5
from openmm_se3.data.frames import Frame, Frames
from openmm_se3.data.level_of_theory import LevelOfTheory
from openmm_se3.shipped import shipped_models
from openmm_se3.units import BOHR_TO_ANGSTROM, HARTREE_TO_EV

N_FRAMES = 12
WATER = np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]])
NUMBERS = np.array([8, 1, 1])
PDB = """CRYST1   20.000   20.000   20.000  90.00  90.00  90.00 P 1           1
HETATM    1  O   HOH A   1       0.000   0.000   0.120  1.00  0.00           O
HETATM    2  H1  HOH A   1       0.000   0.760  -0.480  1.00  0.00           H
HETATM    3  H2  HOH A   1       0.000  -0.760  -0.480  1.00  0.00           H
HETATM    4  O   HOH A   2       0.000   0.000   3.120  1.00  0.00           O
HETATM    5  H1  HOH A   2       0.000   0.760   2.520  1.00  0.00           H
HETATM    6  H2  HOH A   2       0.000  -0.760   2.520  1.00  0.00           H
END
"""
YAML = """preset: default
model: {elements: [H, O], layers: 2, channels: 16}
training: {steps: 100, warmup_steps: 10, learning_rate: 1e-3, milestones: [0.5]}
data:
  files:
    - {path: a.xyz, energy_unit: hartree, length_unit: bohr, split: test}
    - b.h5
  split: {by: trajectory, fractions: [0.8, 0.1, 0.1], seed: 1}
  self_energies: {H: -13.6, O: -2042.0}
"""


def frames() -> list[Frame]:
    """Return a few bent waters with labels."""
    rng = np.random.default_rng(0)
    return [
        Frame(
            NUMBERS,
            WATER + rng.normal(scale=0.05, size=(3, 3)),
            -2078.5 + float(rng.normal(scale=0.1)),
            rng.normal(scale=1.0, size=(3, 3)),
            trajectory=f"t{index}",
            kind="md",
        )
        for index in range(N_FRAMES)
    ]


def write_seeds(folder: Path) -> dict[str, Path]:
    """Write one file or folder a format and return them by name."""
    made = frames()
    arrays = {
        name: np.stack([getattr(frame, name) for frame in made])
        for name in ("positions", "energy", "forces")
    }
    files = {
        "extxyz": _xyz(folder / "labels.xyz", made, labels=True),
        "structures": _xyz(folder / "structures.xyz", made, labels=False),
        "ours": folder / "ours.h5",
        "deepmd": _deepmd(folder / "deepmd", arrays),
        "pdb": folder / "water.pdb",
        "cif": folder / "water.cif",
        "yaml": folder / "run.yaml",
        "model": folder / "model",
    }
    data = Dataset(Frames.of(made), LevelOfTheory(), {1: -13.59, 8: -2042.0})
    write_hdf5(files["ours"], data)
    files |= _conformers(folder, arrays)
    files["pdb"].write_text(PDB)
    _write_cif(files["cif"])
    files["yaml"].write_text(YAML)
    shutil.copytree(
        shipped_models()["water"], files["model"], ignore=lambda *_: ["data"]
    )
    return files


def _xyz(path: Path, made: list[Frame], labels: bool) -> Path:
    rows = []
    for frame in made:
        names = "species:S:1:pos:R:3" + (":forces:R:3" if labels else "")
        energy = f" energy={frame.energy:.8f}" if labels else ""
        rows += ["3", f"Properties={names}{energy} trajectory={frame.trajectory}"]
        for atom in range(3):
            values = [*frame.positions[atom]]
            if labels and frame.forces is not None:
                values += [*frame.forces[atom]]
            numbers = " ".join(f"{value:.6f}" for value in values)
            rows.append(f"{'OHH'[atom]} {numbers}")
    path.write_text("\n".join(rows) + "\n")
    return path


def _deepmd(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    (folder / "set.000").mkdir(parents=True)
    (folder / "type_map.raw").write_text("O\nH\n")
    (folder / "type.raw").write_text("0\n1\n1\n")
    box = np.tile(9.0 * np.eye(3).ravel(), (N_FRAMES, 1))
    for name, values in (
        ("coord", arrays["positions"].reshape(N_FRAMES, -1)),
        ("force", arrays["forces"].reshape(N_FRAMES, -1)),
        ("energy", arrays["energy"]),
        ("box", box),
    ):
        np.save(folder / "set.000" / f"{name}.npy", values)
    return folder


def _conformers(folder: Path, arrays: dict[str, np.ndarray]) -> dict[str, Path]:
    energy = arrays["energy"] / HARTREE_TO_EV
    forces = arrays["forces"] / HARTREE_TO_EV
    symbols = np.array(["O", "H", "H"], dtype="S1")
    layouts = {
        "ani1": {"species": symbols, "energies": energy},
        "ani1x": {
            "atomic_numbers": NUMBERS.astype("u1"),
            "wb97x_dz.energy": energy,
            "wb97x_dz.forces": forces,
        },
        "comp6": {"species": symbols, "energies": energy, "forces": -forces},
        "torchani": {
            "species": np.tile(NUMBERS, (N_FRAMES, 1)),
            "energies": energy,
            "forces": forces,
        },
    }
    files = {}
    for name, content in layouts.items():
        files[name] = folder / f"{name}.h5"
        with h5py.File(files[name], "w") as file:
            for key, values in content.items():
                file[f"set/molecule/{key}"] = values
            file.create_dataset(
                "set/molecule/coordinates",
                data=arrays["positions"],
                compression="gzip",
            )
    files["spice"] = folder / "spice.h5"
    with h5py.File(files["spice"], "w") as file:
        group = file.create_group("water")
        group["atomic_numbers"] = NUMBERS.astype("i2")
        group["conformations"] = arrays["positions"] / BOHR_TO_ANGSTROM
        group["dft_total_energy"] = energy
        group["dft_total_gradient"] = -forces * BOHR_TO_ANGSTROM
        group.create_dataset("subset", data=[b"water"])
        group.create_dataset("smiles", data=[b"[O:1]([H:2])[H:3]"])
    return files


def _write_cif(path: Path) -> None:
    import io

    from openmm import app

    file = app.PDBFile(io.StringIO(PDB))
    with open(path, "w") as out:
        app.PDBxFile.writeFile(file.topology, file.positions, out)
