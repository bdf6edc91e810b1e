"""Did the molecules survive?

The criterion is that of Fu et al. 2022 (https://arxiv.org/abs/2210.07237): a trajectory
is unstable from its first frame in which a bond is more than 0.5 A from its reference
length.  Numbers that are not finite, and hydrogens that are nearer to another heavy
atom than to their own, in units of the sum of the covalent radii, end it too.
"""

from __future__ import annotations

import dataclasses

import mdtraj
import numpy as np

from openmm_se3.analysis.geometry import bonds, distances
from openmm_se3.analysis.read import Recording
from openmm_se3.elements import COVALENT_RADII, chemical_symbol, symbols_of
from openmm_se3.geometry import NONMETALS
from openmm_se3.simulation.guard import MAX_STRETCH

CRITERION = (
    f"STABLE means: in every frame all positions are finite, every bond is within "
    f"{MAX_STRETCH} Å of its reference length (that of the topology file, the "
    "minimum), and every hydrogen is nearer to the atom it is bonded to than to any "
    "other heavy atom, in units of the sum of their covalent radii (Fu et al. 2022, "
    "https://arxiv.org/abs/2210.07237)."
)
# All in sums of covalent radii.  A bond to hydrogen shorter than this cannot belong to
# one that is nearer to another heavy atom.
SURELY_OWN = 1.185
# Lengths that bonds of a relaxed structure can have: to hydrogen, and of nonmetals.
HYDROGEN_RANGE, BOND_RANGE = (0.876, 1.2), (0.7, 1.35)


@dataclasses.dataclass(frozen=True)
class Stability:
    """Verdict on a trajectory.

    Attributes:
        stable: Whether every frame was good.
        reason: What was wrong first; empty if stable.
        frames: Number of good frames before that.
        lasted_ps: Time of the last good frame, ps; None if times are unknown.
        worst: Largest deviation of a bond from its reference in good frames, A.
    """

    stable: bool
    reason: str
    frames: int
    lasted_ps: float | None
    worst: float


def judge(recording: Recording) -> Stability:
    """Return the verdict on a recording.

    Raises:
        ValueError: There are no bonds or no frames, or the bonds of the reference
            structure are not those of a relaxed one.
    """
    trajectory = recording.trajectory
    stopped = recording.run.get("status") == "stopped"
    pairs = bonds(trajectory.topology)
    if len(pairs) == 0:
        raise ValueError(
            "no bonds to judge: the topology file names none between its atoms; add "
            "CONECT records to it"
        )
    if trajectory.n_frames == 0 and not stopped:
        raise ValueError(
            "no frames to judge: the trajectory is empty, as it is of a run that ended "
            "before its production"
        )
    reference = np.linalg.norm(
        recording.reference[pairs[:, 0]] - recording.reference[pairs[:, 1]], axis=1
    )
    _check_reference(trajectory.topology, pairs, reference)
    deviation = np.empty((trajectory.n_frames, 0))
    if trajectory.n_frames:
        deviation = distances(trajectory, pairs) - reference
    frame, reason = first_fault(trajectory, pairs, deviation)
    lasted = None
    if recording.times is not None:
        lasted = float(recording.times[frame - 1]) if frame else 0.0
    if not reason and stopped:
        # The guard stops before the bad frame is written.
        reason, lasted = recording.run["reason"], recording.run["time_ps"]
        if recording.run["phase"] != "production":
            reason = f"already in the {recording.run['phase']}: {reason}"
    worst = float(abs(deviation[:frame]).max()) if deviation[:frame].size else 0.0
    return Stability(
        stable=not reason, reason=reason, frames=frame, lasted_ps=lasted, worst=worst
    )


def first_fault(
    trajectory: mdtraj.Trajectory, pairs: np.ndarray, deviation: np.ndarray
) -> tuple[int, str]:
    """Return the first bad frame and what is wrong with it.

    Args:
        trajectory: Frames.
        pairs: Bonds [n_bonds, 2].
        deviation: Deviation of each bond from its reference [n_frames, n_bonds], A.

    Returns:
        Index of the frame and the reason; the number of frames and "" if all are good.
    """
    found = []
    finite = np.isfinite(trajectory.xyz).all(axis=2)
    if not finite.all():
        frame, atom = _first(~finite)
        name = trajectory.topology.atom(atom)
        found.append((frame, f"the position of {name} is not a finite number"))
    # A comparison with a number that is not finite is False; it was found above.
    stretched = abs(deviation) > MAX_STRETCH
    if stretched.any():
        frame, bond = _first(stretched)
        a, b = (trajectory.topology.atom(i) for i in pairs[bond])
        change = deviation[frame, bond]
        found.append((frame, f"the bond {a} {b} is {change:+.2f} Å from its reference"))
    lost = _first_lost_hydrogen(trajectory, pairs)
    if lost is not None:
        found.append(lost)
    return min(found) if found else (trajectory.n_frames, "")


def _first(mask: np.ndarray) -> tuple[int, int]:
    frame = int(np.argmax(mask.any(axis=1)))
    return frame, int(np.argmax(mask[frame]))


def _first_lost_hydrogen(
    trajectory: mdtraj.Trajectory, pairs: np.ndarray
) -> tuple[int, str] | None:
    """Return the first frame in which a hydrogen has left its heavy atom, and where to.

    Args:
        trajectory: Frames.
        pairs: Bonds [n_bonds, 2].
    """
    numbers = np.array([atom.element.number for atom in trajectory.topology.atoms])
    heavy = np.flatnonzero(numbers > 1)
    # Heavy atom and hydrogen, of hydrogens with one bond: others may bridge.
    own = np.array(
        [sorted(pair, key=lambda i: -numbers[i]) for pair in pairs], dtype=int
    )
    own = own[(numbers[own] > 1) @ [1, 1] == 1]
    once = np.bincount(pairs.ravel(), minlength=len(numbers)) == 1
    own = own[once[own[:, 1]]] if len(own) else own
    if len(own) == 0 or len(heavy) < 2 or trajectory.n_frames == 0:
        return None
    radii = np.array([COVALENT_RADII[s] for s in symbols_of(numbers)])
    reach = radii + COVALENT_RADII["H"]  # of a bond of each atom to hydrogen
    shares = distances(trajectory, own) / reach[own[:, 0]]
    for frame in np.flatnonzero((shares > SURELY_OWN).any(axis=1)):
        for bond in np.flatnonzero(shares[frame] > SURELY_OWN):
            parent, hydrogen = own[bond]
            others = heavy[heavy != parent]
            to_others = np.stack([others, np.full(len(others), hydrogen)], axis=1)
            far = distances(trajectory[frame], to_others)[0]
            nearest = int(np.argmin(far / reach[others]))
            if far[nearest] / reach[others[nearest]] < shares[frame, bond]:
                atoms = trajectory.topology
                length = shares[frame, bond] * reach[parent]
                return int(frame), (
                    f"{atoms.atom(int(parent)).residue} lost an atom: "
                    f"{atoms.atom(int(hydrogen))} is {far[nearest]:.2f} Å from "
                    f"{atoms.atom(int(others[nearest]))} and {length:.2f} Å from its "
                    f"own {atoms.atom(int(parent)).element.name}"
                )
    return None


def _check_reference(
    topology: mdtraj.Topology, pairs: np.ndarray, reference: np.ndarray
) -> None:
    for (i, j), length in zip(pairs, reference, strict=True):
        symbols = [chemical_symbol(topology.atom(int(k)).element) for k in (i, j)]
        if not NONMETALS.issuperset(symbols):
            continue
        with_hydrogen = symbols.count("H") == 1
        least, most = HYDROGEN_RANGE if with_hydrogen else BOND_RANGE
        share = length / sum(COVALENT_RADII[symbol] for symbol in symbols)
        if not least <= share <= most:
            name = "-".join(sorted(symbols, key="H".__eq__))
            raise ValueError(
                f"the {name} bond of atoms {i} and {j} is {length:.2f} Å long in the "
                "topology file; its coordinates must be a relaxed structure, because "
                "its bond lengths are the reference"
            )
