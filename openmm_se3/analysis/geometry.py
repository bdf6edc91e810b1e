"""Bond lengths, angles and torsions of molecules, by type."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Callable

import mdtraj
import numpy as np

from openmm_se3.elements import chemical_symbol
from openmm_se3.units import NM_TO_ANGSTROM

# Conformations about a bond, by the least size of the torsion, degrees (Klyne and
# Prelog).
CONFORMATIONS = {"syn": 0.0, "gauche": 30.0, "anticlinal": 90.0, "trans": 150.0}


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Internal coordinates in every frame, by type, such as "C-H" or "C-C-O".

    Attributes:
        lengths: Bond lengths of each type [n_frames, n_bonds], A.
        angles: Bond angles of each type [n_frames, n_angles], degrees.
        torsions: One torsion about each bond that has some, of each type
            [n_frames, n_torsions], degrees from -180 to 180: that of its heaviest
            neighbors.
    """

    lengths: dict[str, np.ndarray]
    angles: dict[str, np.ndarray]
    torsions: dict[str, np.ndarray]


def water_molecules(topology: mdtraj.Topology) -> np.ndarray:
    """Return the atoms O, H, H of every water molecule [n_molecules, 3]."""
    molecules = []
    for residue in topology.residues:
        atoms = sorted(
            residue.atoms,
            key=lambda atom: (chemical_symbol(atom.element) != "O", atom.index),
        )
        if [chemical_symbol(atom.element) for atom in atoms] == ["O", "H", "H"]:
            molecules.append([atom.index for atom in atoms])
    return np.array(molecules, dtype=int).reshape(-1, 3)


def bonds(topology: mdtraj.Topology) -> np.ndarray:
    """Return the bonds [n_bonds, 2]: those of the topology, and O-H in water."""
    pairs = {tuple(sorted((a.index, b.index))) for a, b in topology.bonds}
    for oxygen, *hydrogens in water_molecules(topology):
        pairs |= {tuple(sorted((int(oxygen), int(h)))) for h in hydrogens}
    return np.array(sorted(pairs), dtype=int).reshape(-1, 2)


def distances(trajectory: mdtraj.Trajectory, pairs: np.ndarray) -> np.ndarray:
    """Return distances [n_frames, n_pairs], A; nearest images if there is a box."""
    nm = mdtraj.compute_distances(trajectory, pairs, periodic=has_box(trajectory))
    return np.asarray(nm, float) * NM_TO_ANGSTROM


def angles(trajectory: mdtraj.Trajectory, triplets: np.ndarray) -> np.ndarray:
    """Return angles [n_frames, n_triplets], degrees, at the middle atoms."""
    radians = mdtraj.compute_angles(trajectory, triplets, periodic=has_box(trajectory))
    return np.degrees(np.asarray(radians, float))


def torsions(trajectory: mdtraj.Trajectory, quartets: np.ndarray) -> np.ndarray:
    """Return torsions [n_frames, n_quartets], degrees, from -180 to 180."""
    periodic = has_box(trajectory)
    radians = mdtraj.compute_dihedrals(trajectory, quartets, periodic=periodic)
    return np.degrees(np.asarray(radians, float))


def has_box(trajectory: mdtraj.Trajectory) -> bool:
    """Tell whether a trajectory is periodic."""
    return trajectory.unitcell_lengths is not None


def geometry(trajectory: mdtraj.Trajectory) -> Geometry | None:
    """Return the geometry of all molecules, or None without bonds or frames."""
    pairs = bonds(trajectory.topology)
    if len(pairs) == 0 or trajectory.n_frames == 0:
        return None
    neighbors: dict[int, list[int]] = defaultdict(list)
    for first, second in pairs:
        neighbors[int(first)].append(int(second))
        neighbors[int(second)].append(int(first))
    bends = [
        (a, middle, b)
        for middle, ends in sorted(neighbors.items())
        for a, b in itertools.combinations(ends, 2)
    ]
    atoms = list(trajectory.topology.atoms)
    twists = []
    for first, second in pairs:
        ends = [
            max((n for n in neighbors[i] if n != j), key=_weight(atoms), default=None)
            for i, j in ((first, second), (second, first))
        ]
        if None not in ends and ends[0] != ends[1]:  # not across a ring of three
            twists.append((ends[0], first, second, ends[1]))
    return Geometry(
        lengths=_by_type(trajectory, pairs, distances),
        angles=_by_type(trajectory, np.array(bends, dtype=int).reshape(-1, 3), angles),
        torsions=_by_type(
            trajectory, np.array(twists, dtype=int).reshape(-1, 4), torsions
        ),
    )


def conformations(values: np.ndarray) -> dict[str, float]:
    """Return the shares of the conformations of torsions, degrees, that occur."""
    size = np.abs(values[np.isfinite(values)])
    counts = np.histogram(size, [*CONFORMATIONS.values(), 180.0])[0] / max(len(size), 1)
    shares = dict(zip(CONFORMATIONS, counts.tolist(), strict=True))
    return {name: share for name, share in shares.items() if share > 0.0}


def _weight(atoms: list[mdtraj.core.topology.Atom]) -> Callable[[int], tuple[int, int]]:
    """Return what orders atoms by atomic number, and the first ones after the rest."""
    return lambda index: (atoms[index].element.number, -index)


def _by_type(
    trajectory: mdtraj.Trajectory,
    members: np.ndarray,
    measure: Callable[[mdtraj.Trajectory, np.ndarray], np.ndarray],
) -> dict[str, np.ndarray]:
    """Return what is measured of groups of atoms [n_groups, n], by their elements."""
    types: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(members):
        symbols = [
            chemical_symbol(trajectory.topology.atom(int(i)).element) for i in group
        ]
        types[_type_name(symbols)].append(index)
    return {name: measure(trajectory, members[types[name]]) for name in sorted(types)}


def _type_name(symbols: list[str]) -> str:
    """Return the name of a type, read from carbon and towards hydrogen."""
    order = [(symbol == "H", symbol != "C", symbol) for symbol in symbols]
    return "-".join(symbols if order <= order[::-1] else symbols[::-1])


# Luzar and Chandler 1996, https://doi.org/10.1038/379055a0.
MAX_OO = 3.5  # A
MAX_ANGLE = 30.0  # degrees, between O-H and O-O at the donor
CRITERION = (
    f"Hydrogen bonds: O-O below {MAX_OO} Å and the angle H-O...O below {MAX_ANGLE:.0f} "
    "degrees (Luzar and Chandler 1996, https://doi.org/10.1038/379055a0)."
)
MAX_FRAMES = 2000  # frames 2 fs apart differ little; more would only cost memory
MAX_MOLECULES = 64  # pairs of all molecules are looked at


@dataclasses.dataclass(frozen=True)
class Cluster:
    """How water molecules are held together.

    Attributes:
        frames: Which frames of the trajectory were looked at.
        oo: O-O distances [n_frames, n_pairs], A.
        nearest: Distance of each oxygen to the nearest other [n_frames, n_molecules],
            A.
        bonds: Number of hydrogen bonds [n_frames].
    """

    frames: np.ndarray
    oo: np.ndarray
    nearest: np.ndarray
    bonds: np.ndarray


def cluster(trajectory: mdtraj.Trajectory) -> Cluster | None:
    """Return O-O distances and hydrogen bonds, or None if there are none to count."""
    waters = water_molecules(trajectory.topology)
    count = len(waters)
    if not 2 <= count <= MAX_MOLECULES or trajectory.n_frames == 0:
        return None
    stride = max(1, trajectory.n_frames // MAX_FRAMES)
    frames = np.arange(0, trajectory.n_frames, stride)
    sampled = trajectory[::stride]
    first, second = np.triu_indices(count, k=1)
    oo = distances(sampled, np.stack([waters[first, 0], waters[second, 0]], axis=1))
    matrix = np.full((len(frames), count, count), np.inf)
    matrix[:, first, second] = matrix[:, second, first] = oo
    donor, acceptor = np.nonzero(~np.eye(count, dtype=bool))
    bonds = np.zeros(len(frames), dtype=int)
    for hydrogen in (1, 2):
        triplets = np.stack(
            [waters[donor, hydrogen], waters[donor, 0], waters[acceptor, 0]], axis=1
        )
        points = angles(sampled, triplets) < MAX_ANGLE
        bonds += (points & (matrix[:, donor, acceptor] < MAX_OO)).sum(axis=1)
    return Cluster(frames=frames, oo=oo, nearest=matrix.min(axis=2), bonds=bonds)
