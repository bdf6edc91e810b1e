"""What PDB and mmCIF files may leave out, and what they must not say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openmm
import pytest

from openmm_se3 import SE3Potential
from openmm_se3.simulation.structure import read_structure

CRYST = "CRYST1   12.000   12.000   12.000  90.00  90.00  90.00 {:11}{:4}\n"
WATER = (("O", 0.0, 0.0, 0.0), ("H", 0.957, 0.0, 0.0), ("H", -0.24, 0.927, 0.0))
ITEMS = (
    "length_a 12.0",
    "length_b 12.0",
    "length_c 12.0",
    "angle_alpha 90",
    "angle_beta 90",
    "angle_gamma 90",
)
LOOP = "loop_\n" + "".join(
    f"_atom_site.{name}\n"
    for name in (
        *("group_PDB", "id", "type_symbol", "label_atom_id", "label_alt_id"),
        *("label_comp_id", "label_asym_id", "label_seq_id"),
        *("Cartn_x", "Cartn_y", "Cartn_z", "pdbx_formal_charge"),
    )
)


def pdb(
    residue: str = "HOH",
    names: tuple[str, str, str] = ("O", "H1", "H2"),
    group: str = "P 1",
    charge: str = "  ",
    shift: float = 0.0,
) -> str:
    lines = [CRYST.format(group, 1)]
    for number, ((symbol, x, y, z), name) in enumerate(
        zip(WATER, names, strict=True), 1
    ):
        own = charge if symbol == "O" else "  "
        x = (x + shift) % 12.0
        lines.append(
            f"HETATM{number:5}  {name:3} {residue:3} A   1    {x:8.3f}{y:8.3f}{z:8.3f}"
            f"  1.00  0.00          {symbol:>2}{own}\n"
        )
    return "".join(lines) + "END\n"


def mmcif(items: tuple[str, ...] = ITEMS, charge: str = "0", blocks: int = 1) -> str:
    names = ("O", "H1", "H2")
    rows = "".join(
        f"HETATM {i + 1} {s} {names[i]} . HOH A 1 {x} {y} {z} "
        f"{charge if s == 'O' else 0}\n"
        for i, (s, x, y, z) in enumerate(WATER)
    )
    cell = "".join(f"_cell.{item}\n" for item in items)
    return "".join(
        f"data_{k}\n{cell}_symmetry.space_group_name_H-M 'P 1'\n#\n{LOOP}{rows}#\n"
        for k in range(blocks)
    )


def read(path: Path, text: str) -> tuple[object, np.ndarray]:
    path.write_text(text)
    return read_structure(path)


@pytest.mark.parametrize(
    ("residue", "names"),
    [
        ("HOH", ("O", "H1", "H2")),
        ("HOH", ("O1", "H3", "H4")),
        ("UNK", ("O", "H1", "H2")),
    ],
)
@pytest.mark.parametrize("shift", [0.0, 11.5])
def test_atoms_without_bonds_get_those_of_their_distances(
    residue: str, names: tuple[str, str, str], shift: float, tmp_path: Path
) -> None:
    """Else a barostat would scale atoms, and the box would cut the molecule."""
    topology, x = read(tmp_path / "a.pdb", pdb(residue, names, shift=shift))
    assert topology.getNumBonds() == 2
    assert np.linalg.norm(x[1] - x[0]) == pytest.approx(0.957, abs=1e-3)
    system = SE3Potential("water").createSystem(topology)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    assert [list(molecule) for molecule in context.getMolecules()] == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (pdb(group="P 21 21 21"), "space group is 'P 21 21 21'"),
        (pdb(charge="2+"), r"add up to \+2"),
        (pdb(charge="1-"), "add up to -1"),
        (mmcif(charge="1"), r"add up to \+1"),
        (mmcif(charge="-1"), "add up to -1"),
        (mmcif(ITEMS[:4] + ITEMS[5:]), "lacks _cell.angle_beta"),
        (mmcif(ITEMS[:3]), "lacks _cell.angle_alpha, _cell.angle_beta"),
        (mmcif(("length_a 12.0(1)", *ITEMS[1:])), r"_cell.length_a is '12.0\(1\)'"),
        (mmcif(("length_a ?", *ITEMS[1:])), r"_cell.length_a is '\?'"),
    ],
)
def test_what_would_be_another_system_is_refused(
    text: str, named: str, tmp_path: Path
) -> None:
    suffix = ".cif" if text.startswith("data_") else ".pdb"
    with pytest.raises(ValueError, match=named):
        read(tmp_path / f"a{suffix}", text)


@pytest.mark.parametrize("blocks", [1, 2])
def test_of_several_data_blocks_the_first_counts(blocks: int, tmp_path: Path) -> None:
    topology, x = read(tmp_path / "a.cif", mmcif(blocks=blocks))
    assert topology.getNumAtoms() == 3 and len(x) == 3
