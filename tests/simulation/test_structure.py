"""Structure files: what is read, and what is refused with a word on why."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import mdtraj
import numpy as np
import pytest
import torch
from analytic_water import water_positions
from openmm import app, unit
from random_model import topology_of

from openmm_se3 import SE3Potential
from openmm_se3.export import export_topology
from openmm_se3.geometry import box_of
from openmm_se3.model_file import load_model
from openmm_se3.simulation import (
    ModelRunOptions,
    read_structure,
    run_model,
    water_topology,
)
from openmm_se3.simulation.structure import whole_molecules
from openmm_se3.simulation.structure_checks import LEAST_HYDROGENS

POSITIONS = water_positions(3, 5)
BOX = np.array([[9.0, 0.0, 0.0], [2.0, 8.0, 0.0], [-1.0, 1.5, 8.5]])  # A


def write(path: Path, positions: np.ndarray, box: np.ndarray | None = None) -> Path:
    """Write water molecules as PDB or mmCIF, by the suffix."""
    topology = water_topology(len(positions) // 3)
    if box is not None:
        topology.setPeriodicBoxVectors(box * unit.angstrom)
    writer = app.PDBFile if path.suffix == ".pdb" else app.PDBxFile
    with open(path, "w") as file:
        writer.writeFile(topology, positions * unit.angstrom, file)
    return path


def pdb(*rows: str) -> str:
    """Return a PDB file from rows "NAME RESIDUE NUMBER X Y Z ELEMENT [LOCATION]"."""
    lines = []
    for serial, row in enumerate(rows, start=1):
        name, residue, number, x, y, z, element, *location = row.split()
        alternate = location[0] if location else " "
        lines.append(
            f"HETATM{serial:5d}  {name:<3s}{alternate}{residue:<3s} A{number:>4s}    "
            f"{float(x):8.3f}{float(y):8.3f}{float(z):8.3f}  1.00  0.00"
            f"          {element:>2s}"
        )
    return "\n".join([*lines, "END\n"])


WATER = ("O HOH 1 0 0 0 O", "H1 HOH 1 0.96 0 0 H", "H2 HOH 1 -0.24 0.93 0 H")


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
@pytest.mark.parametrize("box", [None, BOX])
def test_atoms_bonds_and_box_are_read(
    tmp_path: Path, suffix: str, box: np.ndarray | None
) -> None:
    path = write(tmp_path / f"three{suffix}", POSITIONS, box)
    topology, positions = read_structure(path)
    assert np.abs(positions - POSITIONS).max() < 1e-3
    symbols = [atom.element.symbol for atom in topology.atoms()]
    assert symbols == ["O", "H", "H"] * 3
    bonds = {tuple(sorted((a.index, b.index))) for a, b, *_ in topology.bonds()}
    assert bonds == {(o, o + h) for o in (0, 3, 6) for h in (1, 2)}
    found = box_of(topology)
    if box is None:
        assert found is None
    else:
        assert np.abs(found - box).max() < 2e-3


def test_molecules_that_the_box_cuts_are_made_whole(tmp_path: Path) -> None:
    # Each atom is put back into the box on its own.
    fractions = (POSITIONS + 0.3) @ np.linalg.inv(BOX)
    wrapped = (fractions - np.floor(fractions)) @ BOX
    first, last = wrapped[[0, 0, 3, 3, 6, 6]], wrapped[[1, 2, 4, 5, 7, 8]]
    assert np.linalg.norm(last - first, axis=1).max() > 3.0  # some are cut
    _, whole = read_structure(write(tmp_path / "cut.pdb", wrapped, BOX))
    lengths = np.linalg.norm(
        whole[[1, 2, 4, 5, 7, 8]] - whole[[0, 0, 3, 3, 6, 6]], axis=1
    )
    assert np.abs(lengths - 0.9572).max() < 2e-3
    shift = (whole - wrapped) @ np.linalg.inv(BOX)
    assert np.abs(shift - np.round(shift)).max() < 1e-3  # by lattice vectors


def test_a_chain_longer_than_the_box_is_made_whole() -> None:
    topology = topology_of(["O"] * 12, 10.0 * np.eye(3))
    atoms = list(topology.atoms())
    for first in np.random.default_rng(0).permutation(11):
        topology.addBond(atoms[first + 1], atoms[first])
    straight = np.arange(12)[:, None] * np.array([1.4, 0.3, 0.0])
    whole = whole_molecules(topology, straight % 10.0, 10.0 * np.eye(3))
    assert np.ptp(whole, axis=0)[0] > 10.0
    assert np.abs(np.diff(whole, axis=0) - [1.4, 0.3, 0.0]).max() < 1e-9


def test_the_box_of_what_is_no_crystal_is_none(tmp_path: Path) -> None:
    path = tmp_path / "nmr.pdb"
    path.write_text(
        "CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1\n"
        + pdb(*WATER)
    )
    assert read_structure(path)[0].getPeriodicBoxVectors() is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "cannot be read: there are no atoms in it"),
        (["O HOH 1 0 0 0 O"], "hydrogens are missing in 1 residues.*HOH 1.*addHydrog"),
        ([*WATER, "O HOH 2 5 0 0 O"], "missing in 1 residues, the first is HOH 2"),
        ([*WATER, "CA ALA 2 5 0 0 C"], "missing in 1 residues, the first is ALA 2"),
        ([*WATER, "Q UNL 2 5 0 0"], "atom 3 .Q of UNL. has no element.*columns 77-78"),
        (
            [*WATER, "H UNL 2 5 0 0 H", "H UNL 2 6 0 0 H"],
            "cannot be read: duplicate atom .*UNL A 2.*names of their own",
        ),
        (
            ["O HOH 1 0 0 0 O A", "O HOH 1 0.2 0 0 O B", *WATER[1:]],
            "alternate locations .A, B. of some atoms, such as .*O BHOH.*keep one",
        ),
        (
            [*WATER, "O UNL 2 0.1 0 0 O"],
            r"atom \d .O. and atom \d .O. are 0.10 Å apart, below 0.92.*other units",
        ),
        (
            [*WATER, "O UNL 2 nan 0 0 O"],
            "position of atom 3 .O of UNL. is not a finite",
        ),
    ],
)
def test_bad_structures_are_refused(
    tmp_path: Path, rows: list[str], message: str
) -> None:
    path = tmp_path / "bad.pdb"
    rows = [row if len(row.split()) > 6 else f"{row} ''" for row in rows]
    path.write_text(pdb(*rows).replace("''", "  "))
    with pytest.raises(ValueError, match=message) as caught:
        read_structure(path)
    assert str(path) in str(caught.value)


def test_alternate_locations_of_mmcif_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "two.cif", POSITIONS)
    lines = path.read_text().splitlines()
    rows = [i for i, line in enumerate(lines) if line.startswith(("ATOM", "HETATM"))]
    one, other = (lines[rows[0]].split() for _ in range(2))
    assert one[4] == "."
    one[4], other[4] = "A", "B"
    lines[rows[0]] = f"{' '.join(one)}\n{' '.join(other)}"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="alternate locations .A, B."):
        read_structure(path)


def test_an_mmcif_row_cut_short_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.cif", POSITIONS)
    lines = path.read_text().splitlines()
    last = max(i for i, line in enumerate(lines) if line.startswith(("ATOM", "HETATM")))
    lines[last] = " ".join(lines[last].split()[:3])
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="cut.cif.* 3 of .* columns"):
        read_structure(path)


def test_a_box_too_small_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "small.pdb", water_positions(1), 1.2 * np.eye(3))
    with pytest.raises(ValueError, match=r"Å apart.*box too small .1.20 x 1.20 x 1.20"):
        read_structure(path)
    topology = topology_of(["O"], np.diag([0.5, 9.0, 9.0]))
    with open(tmp_path / "image.pdb", "w") as file:
        app.PDBFile.writeFile(topology, np.zeros((1, 3)) * unit.angstrom, file)
    with pytest.raises(ValueError, match="its own image are 0.50 Å apart"):
        read_structure(tmp_path / "image.pdb")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no structure file .*none.pdb"):
        read_structure(tmp_path / "none.pdb")
    for name, text in (
        ("a.xyz", "1\n\nO 0 0 0\n"),
        ("b.pdb", "\x00\x01"),
        ("c.cif", ""),
    ):
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="a.xyz: give a PDB or PDBx/mmCIF file"):
        read_structure(tmp_path / "a.xyz")
    for name in ("b.pdb", "c.cif"):
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            read_structure(tmp_path / name)


# Every row of atoms counts.

MARK = "\ufeff"


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_hides_no_atom(
    tmp_path: Path, suffix: str, encoding: str
) -> None:
    path = write(tmp_path / f"marked{suffix}", POSITIONS)
    lines = path.read_text().splitlines(keepends=True)
    rows = [line for line in lines if not line.startswith("REMARK")]
    path.write_text("".join(rows), encoding=encoding)
    topology, positions = read_structure(path)
    assert topology.getNumAtoms() == 9
    assert np.abs(positions - POSITIONS).max() < 1e-3


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("HETATM    1  O ", " HETATM   1  O "),
        ("HETATM    1  O ", f"{MARK}HETATM    1  O "),
        ("HETATM    1  O ", "hetatm    1  O "),
        ("HETATM    4  O ", "ATOM 100004  O "),
        ("HETATM    6  H2  HOH A   2", "HETATM    6  H2  UNK A   2"),
        ("HETATM    7  O ", "ENDMDL\nMODEL        2\nHETATM    7  O "),
    ],
)
def test_rows_that_the_reader_leaves_out_are_refused(
    tmp_path: Path, before: str, after: str
) -> None:
    path = write(tmp_path / "rows.pdb", POSITIONS)
    text = path.read_text().replace("ATOM  ", "HETATM").replace("HETHETATM", "HETATM")
    text = "\n".join(
        line for line in text.splitlines() if not line.startswith("CONECT")
    )
    path.write_text(text)
    assert read_structure(path)[0].getNumAtoms() == 9
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))
    with pytest.raises(ValueError, match="rows.pdb"):
        read_structure(path)


def test_of_models_of_one_size_the_first_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "two.pdb", POSITIONS)
    rows = [line for line in path.read_text().splitlines() if "HOH" in line]
    path.write_text("\n".join(2 * ["MODEL        1", *rows, "ENDMDL"]) + "\n")
    assert read_structure(path)[0].getNumAtoms() == 9
    path.write_text("\n".join(2 * [*rows, "END"]) + "\n")
    with pytest.raises(ValueError, match="two.pdb"):  # as END ends no model
        read_structure(path)


def alanine() -> tuple[app.Topology, np.ndarray]:
    """Return ACE-ALA-NME with its hydrogens, and positions that are not too near."""
    topology = app.Topology()
    chain = topology.addChain()
    element = app.Element.getBySymbol
    for residue, names in (
        ("ACE", "H1 CH3 H2 H3 C O"),
        ("ALA", "N H CA HA CB HB1 HB2 HB3 C O"),
        ("NME", "N H C H1 H2 H3"),
    ):
        made = topology.addResidue(residue, chain)
        for name in names.split():
            topology.addAtom(name, element(name[0]), made)
    positions = 3.0 * np.indices((3, 3, 3)).reshape(3, -1).T[: topology.getNumAtoms()]
    return topology, positions


@pytest.mark.parametrize("missing", ["HA", "HB3", "H"])
def test_a_standard_residue_without_some_hydrogens_is_refused(
    tmp_path: Path, missing: str
) -> None:
    topology, positions = alanine()
    path = tmp_path / "alanine.pdb"
    for refused in (False, True):
        modeller = app.Modeller(topology, positions * unit.angstrom)
        atoms = [
            a
            for a in modeller.topology.atoms()
            if refused and (a.residue.name, a.name) == ("ALA", missing)
        ]
        modeller.delete(atoms)
        with open(path, "w") as file:
            app.PDBFile.writeFile(modeller.topology, modeller.positions, file)
        if refused:
            with pytest.raises(ValueError, match="1 residues.* ALA 2"):
                read_structure(path)
        else:
            assert read_structure(path)[0].getNumAtoms() == 22


def test_least_hydrogens_are_those_of_openmm() -> None:
    file = Path(app.__file__).parent / "data" / "hydrogens.xml"
    always = {
        residue.attrib["name"]: sum(
            not {"maxph", "variant", "terminal"} & set(hydrogen.attrib)
            for hydrogen in residue.findall("H")
        )
        for residue in ElementTree.parse(file).getroot().findall("Residue")
    }
    lost = {"ARG": 1, "TYR": 1}  # at high pH
    for name, count in LEAST_HYDROGENS.items():
        if name in always:
            assert count == always[name] - lost.get(name, 0), name


@pytest.mark.parametrize(
    "rows",
    [
        ["H1 HOH 1 0.96 0 0 H", "H2 HOH 1 -0.24 0.93 0 H"],
        [*WATER, "H3 HOH 1 -0.24 -0.93 0 H"],
        [*WATER, "X HOH 1 3 3 0 O"],
        [WATER[0], WATER[1], "C2 HOH 1 -0.24 1.4 0 C"],
    ],
)
def test_water_of_another_composition_is_refused(
    tmp_path: Path, rows: list[str]
) -> None:
    path = tmp_path / "water.pdb"
    path.write_text(pdb(*rows))
    with pytest.raises(ValueError, match="HOH 1|water 1"):
        read_structure(path)


@pytest.mark.parametrize("name", ["M", "MW", "EPW", "EP1", "LP1", "OM"])
def test_virtual_sites_are_called_what_they_are(tmp_path: Path, name: str) -> None:
    path = tmp_path / "tip4p.pdb"
    path.write_text(pdb(*WATER, f"{name} HOH 1 0.1 0.1 0 EP"))
    with pytest.raises(ValueError, match=f"atom 3 .{name} of HOH.*delete") as caught:
        read_structure(path)
    assert "77-78" not in str(caught.value)
    path.write_text(pdb(*WATER))
    assert read_structure(path)[0].getNumAtoms() == 3


CRYSTAL = """data_ice
_cell_length_a 4.498
_cell_length_b 7.338
_cell_length_c 7.79
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'C m c 21'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
O1 O 0.0 0.6699 0.0488
H1 H 0.0 0.6636 0.1963
H2 H 0.0 0.5360 0.0183
"""


def test_a_crystallographic_cif_is_named_and_can_be_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ice.cif").write_text(CRYSTAL)
    with pytest.raises(ValueError, match="crystallographic.*running.md"):
        read_structure("ice.cif")
    guide = (Path(__file__).parents[2] / "docs" / "running.md").read_text()
    part = guide.partition("## A crystal structure")[2]
    snippet = part.partition("```python\n")[2].partition("```")[0]
    exec(compile(snippet, "running.md", "exec"), {})
    topology, positions = read_structure("ice.pdb")
    assert (topology.getNumAtoms(), topology.getNumBonds()) == (144, 96)
    bonds = np.array([[a.index, b.index] for a, b in topology.bonds()])
    lengths = np.linalg.norm(positions[bonds[:, 0]] - positions[bonds[:, 1]], axis=1)
    assert 0.95 < lengths.min() < lengths.max() < 1.2


def test_an_mdtraj_topology_is_refused_with_its_conversion(
    smallest_model: Path,
) -> None:
    potential = SE3Potential(str(smallest_model))
    foreign = mdtraj.Topology.from_openmm(water_topology(1))
    with pytest.raises(TypeError, match=r"to_openmm\(\).*mdtraj"):
        potential.createSystem(foreign)
    assert potential.createSystem(foreign.to_openmm()).getNumParticles() == 3
    with pytest.raises(TypeError, match=r"to_openmm\(\).*mdtraj"):
        run_model(foreign, POSITIONS[:3], ModelRunOptions(model=str(smallest_model)))


def test_a_topology_file_with_a_mark_is_exported_whole(
    tmp_path: Path, smallest_model: Path
) -> None:
    path = write(tmp_path / "marked.pdb", POSITIONS[:3])
    rows = [line for line in path.read_text().splitlines() if "HOH" in line]
    path.write_text("\n".join([*rows, "END", ""]), encoding="utf-8-sig")
    output = tmp_path / "marked.pt"
    export_topology(load_model(smallest_model), path, output)
    module = torch.jit.load(output)
    assert module(torch.tensor(0.1 * POSITIONS[:3]))[1].shape == (3, 3)
    path.write_text("\n".join([f" {rows[0]}", *rows[1:], "END", ""]))
    with pytest.raises(ValueError, match="3 rows of atoms"):
        export_topology(load_model(smallest_model), path, output)
