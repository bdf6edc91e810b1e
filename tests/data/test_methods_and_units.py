"""Labels of several methods, and units of files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
from xyz_files import read_xyz, xyz_of

from openmm_se3.data.checks.pair_fit import energy_slope
from openmm_se3.data.checks.units import unit_checks
from openmm_se3.data.frames import Frame, Frames
from openmm_se3.data.load import (
    Source,
    read_source,
)
from openmm_se3.units import BOHR_TO_ANGSTROM, FORCE_UNITS, HARTREE_TO_EV


def two_methods(frames: list[Frame], energies: str, forces: str) -> str:
    """Return frames with labels of ours, and of a method with half the forces."""
    return "".join(
        xyz_of(
            f,
            f"energy={f.energy!r} {energies}={f.energy + 1.5!r}",
            forces=f.forces,
            **{forces: 0.5 * f.forces},
        )
        for f in frames
    )


@pytest.mark.parametrize(
    ("energies", "forces"),
    [
        ("REF_energy", "REF_forces"),
        ("energy_mp2", "forces_mp2"),
        ("MACE_energy", "MACE_force"),
        ("dftTotalEnergy", "dftGradient"),
        ("E_ccsd", "F_ccsd"),
    ],
)
def test_labels_of_two_methods_are_refused_with_their_names(
    energies: str, forces: str, unlike_frames: list[Frame], tmp_path: Path
) -> None:
    path = tmp_path / "a.xyz"
    text = two_methods(unlike_frames[:3], energies, forces)
    with pytest.raises(ValueError) as refused:
        read_xyz(path, text)
    for name in (energies, forces, "'energy'", "'forces'", "--energy-key"):
        assert name in str(refused.value)
    # One name chooses the method, its forces included.
    sign = -1.0 if "Gradient" in forces else 1.0
    for option in ({"energy_key": energies}, {"forces_key": forces}):
        other = read_xyz(path, text, **option).frames
        assert other[0].energy == pytest.approx(unlike_frames[0].energy + 1.5)
        np.testing.assert_allclose(
            other[0].forces, sign * 0.5 * unlike_frames[0].forces, atol=1e-8
        )
    ours = read_xyz(path, text, energy_key="energy").frames
    np.testing.assert_allclose(ours[0].forces, unlike_frames[0].forces, atol=1e-8)


def test_energy_of_one_method_is_not_read_with_forces_of_another(
    unlike_frames: list[Frame], tmp_path: Path
) -> None:
    path = tmp_path / "a.xyz"
    f = unlike_frames[0]
    text = xyz_of(f, f"REF_energy={f.energy!r}", forces=f.forces)
    with pytest.raises(ValueError, match="REF_energy.*forces.*different methods"):
        read_xyz(path, text)
    both = read_xyz(path, text, energy_key="REF_energy", forces_key="forces").frames
    assert np.isfinite(both[0].energy) and both[0].forces is not None
    # Forces of which another energy says whose they are.
    text = xyz_of(
        f, f"energy={f.energy!r} REF_energy={f.energy + 1!r}", forces=f.forces
    )
    chosen = read_xyz(path, text, energy_key="REF_energy")
    assert chosen.frames[0].forces is None
    assert "forces" in chosen.notes[0] and "REF_energy" in chosen.notes[0]
    # Methods that take turns between frames.
    text = xyz_of(f, f"energy={f.energy!r}", forces=f.forces) + xyz_of(
        f, f"REF_energy={f.energy!r}", REF_forces=f.forces
    )
    with pytest.raises(ValueError, match="REF_energy"):
        read_xyz(path, text)


def test_other_energies_and_copies_are_no_second_method(
    unlike_frames: list[Frame], tmp_path: Path
) -> None:
    f = unlike_frames[0]
    text = xyz_of(
        f,
        f"energy={f.energy!r} free_energy={f.energy - 1!r} REF_energy={f.energy!r} "
        "dispersion_energy=-0.1 energy_weight=2 energy_unit=eV",
        forces=f.forces,
        forces_std=0.1 * f.forces,
        gradient=-f.forces,
    )
    read = read_xyz(tmp_path / "a.xyz", text).frames[0]
    assert read.energy == f.energy
    np.testing.assert_allclose(read.forces, f.forces, atol=1e-8)


def test_an_energy_without_a_usual_name(
    unlike_frames: list[Frame], tmp_path: Path
) -> None:
    f = unlike_frames[0]
    path = tmp_path / "a.xyz"
    total = read_xyz(path, xyz_of(f, f"TotEnergy={f.energy!r}", forces=f.forces))
    assert total.frames[0].energy == f.energy
    strange = read_xyz(path, xyz_of(f, f"U={f.energy!r} run=3", forces=f.forces))
    assert np.isnan(strange.frames[0].energy)
    assert "'U'" in strange.notes[0] and "energy_key" in strange.notes[0]
    named = read_xyz(
        path, xyz_of(f, f"U={f.energy!r}", forces=f.forces), energy_key="U"
    )
    assert named.frames[0].energy == f.energy and named.frames[0].forces is not None


# Units.


def test_every_force_unit_beside_another_energy_unit(
    unlike_frames: list[Frame], tmp_path: Path
) -> None:
    f = unlike_frames[0]
    for unit, size in FORCE_UNITS.items():
        text = xyz_of(f, f"energy={f.energy / HARTREE_TO_EV!r}", forces=f.forces / size)
        read = read_xyz(
            tmp_path / "a.xyz", text, energy_unit="hartree", force_unit=unit
        ).frames[0]
        assert read.energy == pytest.approx(f.energy)
        np.testing.assert_allclose(read.forces, f.forces, atol=1e-6)


def test_units_of_deepmd_and_conformers(
    unlike_frames: list[Frame], tmp_path: Path
) -> None:
    monomers = [f for f in unlike_frames if len(f.numbers) == 3]
    arrays = {
        name: np.stack([getattr(f, name) for f in monomers])
        for name in ("positions", "energy", "forces")
    }
    folder = tmp_path / "deepmd"
    (folder / "set.000").mkdir(parents=True)
    (folder / "nopbc").touch()
    (folder / "type_map.raw").write_text("H O\n")
    (folder / "type.raw").write_text(
        "\n".join("1" if z == 8 else "0" for z in monomers[0].numbers)
    )
    unit = HARTREE_TO_EV / BOHR_TO_ANGSTROM
    np.save(folder / "set.000/coord.npy", arrays["positions"].reshape(-1, 9))
    np.save(folder / "set.000/energy.npy", arrays["energy"] / HARTREE_TO_EV)
    np.save(folder / "set.000/force.npy", arrays["forces"].reshape(-1, 9) / unit)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["w/atomic_numbers"] = monomers[0].numbers
        file["w/coordinates"] = arrays["positions"]
        file["w/wb97x_dz.energy"] = arrays["energy"] / HARTREE_TO_EV
        file["w/wb97x_dz.forces"] = -arrays["forces"] / unit
    for source in (
        Source(str(folder), energy_unit="hartree", force_unit="hartree/bohr"),
        Source(str(path), force_unit="hartree/bohr", gradient=True),
    ):
        read = read_source(source).frames
        assert read.column("energy") == pytest.approx(arrays["energy"])
        np.testing.assert_allclose(read[3].forces, arrays["forces"][3], atol=1e-8)


def test_options_keep_their_names_of_before() -> None:
    """A run of an older version is the same run: what was the default says nothing."""
    assert Source("a.xyz", format="extxyz", energy_unit="eV").options() == {
        "format": "extxyz"
    }
    ani = Source("a.h5", format="ani1x", energy_unit="eV", gradient=False)
    assert ani.options() == {"format": "ani1x", "energy_unit": "eV"}
    assert Source("a.h5", format="comp6", gradient=False).options()["gradient"] is False


def test_a_wrong_force_unit_is_seen_on_unrelated_frames(
    unlike_frames: list[Frame],
) -> None:
    assert len(unlike_frames) > 40
    right = energy_slope(unlike_frames)
    assert right is not None and 0.75 < right < 1.5
    wrong = [
        dataclasses.replace(f, forces=BOHR_TO_ANGSTROM * f.forces)
        for f in unlike_frames
    ]
    assert energy_slope(wrong) == pytest.approx(right / BOHR_TO_ANGSTROM, rel=1e-3)
    failed = [f for f in unit_checks(Frames.of(wrong)) if not f.passed]
    assert any("hartree/bohr read as hartree/angstrom" in f.advice for f in failed)
    assert all(f.passed for f in unit_checks(Frames.of(unlike_frames)))
    assert energy_slope(unlike_frames[:15]) is None
    rng = np.random.default_rng(0)
    random = [dataclasses.replace(f, energy=float(rng.normal())) for f in unlike_frames]
    assert energy_slope(random) is None
