"""Two or more molecules side by side: approach curves, hydrogen bonds, clusters.

Distances between molecules are measured in units of touching van der Waals spheres
(Bondi 1964, https://doi.org/10.1021/j100785a001, as RDKit tabulates them): the contact
of two molecules is the least of r_ij / (R_i + R_j) over their pairs of atoms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from openmm_se3.geometry import random_rotation

if TYPE_CHECKING:
    from rdkit import Chem

# Contacts of an approach curve, from repulsion to beyond the attraction.
CLOSEST, FARTHEST = 0.55, 1.7
HYDROGEN_BOND_SHARE = 0.5  # of the pairs that can have one
HYDROGEN_BOND_SPREAD = 20.0  # degrees about the straight one
# A hydrogen bond is closer than the spheres: 1.9 A of H...O is a contact of 0.7.
HYDROGEN_BOND_CONTACTS = (0.58, 1.0)


class Body:
    """One molecule to be placed.

    Args:
        mol: The molecule; tells donors, acceptors and radii.
        positions: [n_atoms, 3], A.
    """

    def __init__(self, mol: Chem.Mol, positions: np.ndarray) -> None:
        from rdkit import Chem

        table = Chem.GetPeriodicTable()
        atoms = list(mol.GetAtoms())
        self.numbers = np.array([atom.GetAtomicNum() for atom in atoms])
        self.radii = np.array([table.GetRvdw(int(z)) for z in self.numbers])
        self.positions = positions - positions.mean(axis=0)
        self.donors = [
            (n.GetIdx(), atom.GetIdx())
            for atom in atoms
            if atom.GetAtomicNum() == 1
            for n in atom.GetNeighbors()
            if n.GetAtomicNum() in (7, 8, 9, 16)
        ]
        self.acceptors = [
            atom.GetIdx()
            for atom in atoms
            if atom.GetAtomicNum() in (7, 8, 9, 16) and atom.GetFormalCharge() <= 0
        ]


def contact(
    fixed: np.ndarray, fixed_radii: np.ndarray, moved: np.ndarray, radii: np.ndarray
) -> float:
    """Return the least distance of two sets of atoms in units of touching spheres."""
    distances = np.linalg.norm(fixed[:, None] - moved[None], axis=-1)
    return float((distances / (fixed_radii[:, None] + radii[None])).min())


def approach(
    bodies: list[Body], count: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Return positions [n_atoms, 3] (A) of molecules at ``count`` contacts.

    The first stays; each other one comes along a line of its own, either along a
    hydrogen bond or in a random orientation.
    """
    lines = [_line(bodies[0], other, rng) for other in bodies[1:]]
    frames = []
    for _ in range(count):
        places, radii = bodies[0].positions, bodies[0].radii
        for other, (turned, direction, bonded) in zip(bodies[1:], lines, strict=True):
            low, high = HYDROGEN_BOND_CONTACTS if bonded else (CLOSEST, FARTHEST)
            # Squared, so that short distances are as frequent as the forces are large.
            wanted = low + (high - low) * rng.uniform() ** 2
            moved = _slide(places, radii, turned, other.radii, direction, wanted)
            places = np.concatenate([places, moved])
            radii = np.concatenate([radii, other.radii])
        frames.append(places)
    return frames


def _line(
    fixed: Body, other: Body, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the other molecule turned, its way out, and if it is hydrogen bonded."""
    pairs = [(fixed, other)] * bool(fixed.donors and other.acceptors)
    pairs += [(other, fixed)] * bool(other.donors and fixed.acceptors)
    turned = other.positions @ random_rotation(rng).T
    if not pairs or rng.uniform() > HYDROGEN_BOND_SHARE:
        return turned, random_rotation(rng)[0], False
    donor, acceptor = pairs[rng.integers(len(pairs))]
    heavy, hydrogen = donor.donors[rng.integers(len(donor.donors))]
    accepting = acceptor.acceptors[rng.integers(len(acceptor.acceptors))]
    bond = donor.positions[hydrogen] - donor.positions[heavy]
    outward = acceptor.positions[accepting] - acceptor.positions.mean(axis=0)
    if donor is fixed:
        start, direction, axis, anchor = hydrogen, bond, -outward, accepting
    else:
        start, direction, axis, anchor = accepting, outward, -bond, hydrogen
    direction = _scatter(direction, rng)
    turned = other.positions @ _onto(axis, direction, rng).T
    # The two atoms of the hydrogen bond on one line through the fixed one.
    turned = turned - turned[anchor] + fixed.positions[start]
    return turned, direction, True


def _slide(
    fixed: np.ndarray,
    fixed_radii: np.ndarray,
    moved: np.ndarray,
    radii: np.ndarray,
    direction: np.ndarray,
    wanted: float,
) -> np.ndarray:
    """Return a molecule moved along a direction until it has the wanted contact."""
    far = float(np.linalg.norm(fixed - fixed.mean(axis=0), axis=1).max())
    far += float(np.linalg.norm(moved, axis=1).max()) + 2.0 * FARTHEST * 4.0
    near = 0.0
    # Contacts are not monotonic inside; from far away the first crossing is found.
    steps = np.arange(far, near, -0.25)
    outside = far
    for step in steps:
        if contact(fixed, fixed_radii, moved + step * direction, radii) < wanted:
            near = step
            break
        outside = step
    for _ in range(20):
        middle = (near + outside) / 2.0
        if contact(fixed, fixed_radii, moved + middle * direction, radii) < wanted:
            near = middle
        else:
            outside = middle
    return moved + outside * direction


def _scatter(direction: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a direction of length 1 scattered about another."""
    length = np.linalg.norm(direction)
    if length < 1e-6:
        return random_rotation(rng)[0]
    direction = direction / length
    width = np.tan(np.radians(HYDROGEN_BOND_SPREAD))
    scattered = direction + width * rng.normal(size=3) / np.sqrt(3.0)
    return scattered / np.linalg.norm(scattered)


def _onto(axis: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a rotation [3, 3] that turns axis onto target, and is random about it."""
    from scipy.spatial.transform import Rotation

    if np.linalg.norm(axis) < 1e-6:
        return random_rotation(rng)
    onto, _ = Rotation.align_vectors([target], [axis / np.linalg.norm(axis)])
    spin = Rotation.from_rotvec(rng.uniform(0.0, 2.0 * np.pi) * target)
    return (spin * onto).as_matrix()
