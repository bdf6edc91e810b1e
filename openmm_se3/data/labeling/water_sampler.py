"""Structures of water monomers and clusters, to be labeled with DFT.

Molecular dynamics stays stable only where the model has seen labels, so several kinds
of structures are mixed: thermal ones from GFN2-xTB molecular dynamics (Bannwarth et al.
2019, https://doi.org/10.1021/acs.jctc.8b01176), systematic distortions of the monomer
far outside the thermal range, approach curves of two molecules from contact to
separation, and pairs that hold each other by two bent hydrogen bonds, which GFN2-xTB
never visits.

Every structure is an :class:`ase.Atoms` in the order O, H, H per molecule, with, in
``info``:

    kind         "md", "distortion", "approach" or "ring"
    trajectory   name shared by frames that belong together; splits never cut one
    temperature  K (absent where there is none)
    split        "train", "validation" or "test"
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from scipy.spatial.transform import Rotation

from openmm_se3.data.labeling.executors import Executor
from openmm_se3.geometry import random_rotation
from openmm_se3.water_molecule import DFT_MINIMUM, water_molecule

MOLECULE_SPACING = 2.7  # A, least O-O distance of a random start
FRICTION = 0.02  # 1/fs
EQUILIBRATION_FS = {1: 300.0, 2: 1000.0}  # by number of molecules; larger: below
EQUILIBRATION_FS_CLUSTER = 1000.0
SPACING_FS = {1: 40.0, 2: 200.0}  # time between frames, likewise
SPACING_FS_CLUSTER = 100.0
WALL_STRENGTH = 0.05  # eV/A^2, holds evaporating molecules back

# At wB97X/6-31G(d) the minimum of the dimer is a ring, which GFN2-xTB does not have:
# both molecules point a hydrogen to the other's oxygen, this many degrees off the line
# between the oxygens.
CYCLIC_BEND = 43.0
CYCLIC_DISTANCES = (2.4, 2.55, 2.7, 2.85, 3.05, 3.4)  # O-O, A
APPROACH_DISTANCES = (2.2, 2.4, 2.55, 2.7, 2.85, 3.0, 3.3, 3.7, 4.2, 5.0, 6.0, 7.0, 8.0)
# Contacts closer than these (A) are far above any energy that dynamics reaches.
MIN_CONTACT = {("H", "H"): 1.3, ("H", "O"): 1.25, ("O", "O"): 2.1}


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many trajectories of how many frames to run at each temperature."""

    temperatures: tuple[float, ...]
    trajectories: int
    frames: int
    distortions: int = 0
    approaches: int = 0
    rings: int = 0


# The plan of the committed data set, by number of molecules.
PLANS = {
    1: Plan((300.0, 600.0, 1000.0), trajectories=28, frames=10, distortions=300),
    2: Plan(
        (250.0, 350.0, 500.0, 700.0),
        trajectories=16,
        frames=10,
        approaches=40,
        rings=40,
    ),
    3: Plan((250.0, 350.0, 500.0), trajectories=21, frames=8),
    4: Plan((250.0, 350.0, 500.0), trajectories=14, frames=5),
    5: Plan((250.0, 350.0, 500.0), trajectories=24, frames=3),
    6: Plan((250.0, 350.0, 500.0), trajectories=27, frames=3),
}


def thermal_monomer(rng: np.random.Generator) -> np.ndarray:
    """Return a monomer [3, 3] (A) with O-H lengths and angle scattered as at 500 K."""
    r1, r2 = rng.normal(DFT_MINIMUM.oh_length, 0.025, size=2)
    return water_molecule(r1, r2, rng.normal(DFT_MINIMUM.hoh_angle, 6.0))


def monomer_distortions(count: int, rng: np.random.Generator) -> list[Atoms]:
    """Return monomers with O-H from 0.75 to 1.6 A and the angle from 60 to 180 degrees.

    A third stretches both bonds, a third only one, a third only bends; the other
    coordinates are thermal, so that the space between the extremes is covered too.
    """
    structures = []
    for index in range(count):
        r1, r2 = rng.normal(DFT_MINIMUM.oh_length, 0.03, size=2)
        angle = rng.normal(DFT_MINIMUM.hoh_angle, 8.0)
        if index % 3 == 0:
            r1, r2 = rng.uniform(0.75, 1.6, size=2)
            angle = rng.uniform(60.0, 180.0)
        elif index % 3 == 1:
            r1 = rng.uniform(0.75, 1.6)
        else:
            angle = rng.uniform(60.0, 180.0)
        positions = water_molecule(r1, r2, angle) @ random_rotation(rng).T
        info = {"kind": "distortion", "trajectory": f"distortion-{index:04d}"}
        structures.append(Atoms("OHH", positions, info=info))
    return structures


def has_bad_contact(positions: np.ndarray) -> bool:
    """Tell whether two molecules (O, H, H each) [n_atoms, 3] are too close together."""
    symbols = "OHH" * (len(positions) // 3)
    for i in range(len(positions)):
        for j in range(3 * (i // 3 + 1), len(positions)):
            pair = (min(symbols[i], symbols[j]), max(symbols[i], symbols[j]))
            if np.linalg.norm(positions[i] - positions[j]) < MIN_CONTACT[pair]:
                return True
    return False


def dimer_approach(index: int, rng: np.random.Generator) -> list[Atoms]:
    """Return one approach curve of a dimer: O-O from 2.2 to 8 A at fixed orientations.

    Every second curve is near a hydrogen bond (one O-H of the donor points to the other
    oxygen, within 25 degrees), the others are in random orientations.  Distances at
    which atoms would overlap are left out.
    """
    donor, acceptor = thermal_monomer(rng), thermal_monomer(rng)
    acceptor = acceptor @ random_rotation(rng).T
    if index % 2 == 0:
        bond = donor[1] / np.linalg.norm(donor[1])
        bond = bond + np.tan(np.radians(25.0)) * rng.uniform(-1, 1, size=3) / np.sqrt(3)
        direction = bond / np.linalg.norm(bond)
    else:
        direction = random_rotation(rng)[0]
    structures = []
    for distance in APPROACH_DISTANCES:
        separation = distance + rng.uniform(-0.05, 0.05)
        positions = np.concatenate([donor, acceptor + separation * direction])
        if not has_bad_contact(positions):
            info = {"kind": "approach", "trajectory": f"approach-{index:03d}"}
            structures.append(Atoms("OHHOHH", positions, info=info))
    return structures


def cyclic_dimer(index: int, rng: np.random.Generator) -> list[Atoms]:
    """Return one approach curve of a dimer near a ring of two bent hydrogen bonds.

    The bends scatter by 12 degrees, their plane by 15, and each molecule is turned at
    random about its bonded O-H.
    """
    molecules = []
    for side in (1.0, -1.0):
        bend = np.radians(rng.normal(CYCLIC_BEND, 12.0))
        turn = np.radians(rng.normal(0.0, 15.0))
        in_plane = side * np.array([np.sin(bend), 0.0, np.cos(bend)])
        direction = Rotation.from_rotvec([0.0, 0.0, turn]).apply(in_plane)
        molecule = thermal_monomer(rng)
        onto, _ = Rotation.align_vectors([direction], [molecule[1]])
        spin = Rotation.from_rotvec(rng.uniform(0.0, 2.0 * np.pi) * direction)
        molecules.append((spin * onto).apply(molecule))
    structures = []
    for distance in CYCLIC_DISTANCES:
        separation = np.array([0.0, 0.0, distance + rng.uniform(-0.05, 0.05)])
        positions = np.concatenate([molecules[0], molecules[1] + separation])
        if not has_bad_contact(positions):
            info = {"kind": "ring", "trajectory": f"ring-{index:03d}"}
            structures.append(Atoms("OHHOHH", positions, info=info))
    return structures


def random_cluster(n_molecules: int, rng: np.random.Generator) -> Atoms:
    """Return molecules placed at random in a sphere, without overlaps."""
    radius = 0.5 + 1.9 * n_molecules ** (1.0 / 3.0)
    centers: list[np.ndarray] = []
    while len(centers) < n_molecules:
        center = rng.uniform(-radius, radius, size=3)
        if np.linalg.norm(center) <= radius and all(
            np.linalg.norm(center - other) >= MOLECULE_SPACING for other in centers
        ):
            centers.append(center)
        else:
            radius *= 1.001
    while True:
        molecules = [
            center + thermal_monomer(rng) @ random_rotation(rng).T for center in centers
        ]
        positions = np.concatenate(molecules)
        if not has_bad_contact(positions):
            return Atoms("OHH" * n_molecules, positions)


class SphericalWall:
    """ASE constraint: a harmonic wall that keeps molecules within a radius.

    The force on the whole system is the gradient of k (r - R)^2 / 2 for atoms at a
    distance r > R from the center of the cluster.
    """

    def __init__(self, radius: float) -> None:
        self.radius = radius

    def adjust_positions(self, atoms: Atoms, new_positions: np.ndarray) -> None:
        """Positions are free."""

    def adjust_forces(self, atoms: Atoms, forces: np.ndarray) -> None:
        """Add the wall's forces (eV/A) in place."""
        offset = atoms.positions - atoms.positions.mean(axis=0)
        distance = np.linalg.norm(offset, axis=1, keepdims=True).clip(min=1e-9)
        excess = (distance - self.radius).clip(min=0.0)
        forces -= WALL_STRENGTH * excess * offset / distance

    def get_removed_dof(self, atoms: Atoms) -> int:
        """No degree of freedom is removed."""
        return 0


def run_md(task: tuple[int, float, int, int, int]) -> list[Atoms]:
    """Return frames of one GFN2-xTB Langevin trajectory from a random start.

    Args:
        task: Number of molecules, temperature (K), index of the trajectory, number of
            frames, seed.
    """
    from tblite.ase import TBLite

    n_molecules, temperature, index, frames, seed = task
    rng = np.random.default_rng([seed, n_molecules, int(temperature), index])
    atoms = random_cluster(n_molecules, rng)
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    if n_molecules > 1:
        radius = 1.5 + 2.2 * n_molecules ** (1.0 / 3.0)
        atoms.set_constraint(SphericalWall(radius))
    # Maxwell-Boltzmann; ASE's own function changes its name between versions.
    width = np.sqrt(atoms.get_masses() * (units.kB * temperature))
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * width[:, np.newaxis])
    step = 1.0 if temperature <= 350.0 else 0.5
    dynamics = Langevin(
        atoms,
        timestep=step * units.fs,
        temperature_K=temperature,
        friction=FRICTION / units.fs,
        fixcm=False,
        rng=rng,
    )
    equilibration = EQUILIBRATION_FS.get(n_molecules, EQUILIBRATION_FS_CLUSTER)
    spacing = SPACING_FS.get(n_molecules, SPACING_FS_CLUSTER)
    dynamics.run(round(equilibration / step))
    name = f"md-{temperature:.0f}K-{index:03d}"
    structures = []
    for _ in range(frames):
        dynamics.run(round(spacing / step))
        info = {"kind": "md", "trajectory": name, "temperature": temperature}
        positions = atoms.positions - atoms.positions.mean(axis=0)
        structures.append(Atoms(atoms.numbers, positions, info=info))
    return structures


def assign_splits(names: Sequence[str], seed: int) -> dict[str, str]:
    """Return the split of each trajectory: about 80, 8 and 12 percent.

    Trajectories are shuffled within each group of one kind and temperature (the name up
    to its last dash), so that each group has at least one for validation and two for
    test where it has five or more.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        groups.setdefault(name.rsplit("-", 1)[0], []).append(name)
    splits = {}
    rng = np.random.default_rng([seed, len(names)])
    for members in groups.values():
        order = rng.permutation(len(members))
        n_test = max(2, round(0.12 * len(members))) if len(members) >= 5 else 0
        n_validation = max(1, round(0.08 * len(members))) if len(members) >= 5 else 0
        for rank, member in enumerate(order):
            split = "train"
            if rank < n_test:
                split = "test"
            elif rank < n_test + n_validation:
                split = "validation"
            splits[members[member]] = split
    return splits


def sample_water(
    n_molecules: int,
    seed: int,
    executor: Executor,
    plan: Plan | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Atoms]:
    """Return structures of (H2O)n in a reproducible order, with their splits.

    Args:
        n_molecules: Molecules per structure, n.
        seed: Seed of everything random here.
        executor: Runs the trajectories.
        plan: How many of what; by default the plan of the committed data set.
        progress: Called with the number of finished trajectories, and of all.

    Raises:
        ValueError: No plan is given and none is known for this size.
    """
    if plan is None:
        if n_molecules not in PLANS:
            raise ValueError(
                f"no plan for {n_molecules} molecules; known sizes: {sorted(PLANS)}"
            )
        plan = PLANS[n_molecules]
    rng = np.random.default_rng([seed, n_molecules])
    structures = monomer_distortions(plan.distortions, rng) if n_molecules == 1 else []
    if n_molecules == 2:
        for index in range(plan.approaches):
            structures += dimer_approach(index, rng)
        for index in range(plan.rings):
            structures += cyclic_dimer(index, rng)
    tasks = [
        (n_molecules, temperature, index, plan.frames, seed)
        for temperature in plan.temperatures
        for index in range(plan.trajectories)
    ]
    results: dict[int, list[Atoms]] = {}
    progress(0, len(tasks))
    for index, frames in executor.run(run_md, tasks):
        results[index] = frames
        progress(len(results), len(tasks))
    for index in range(len(tasks)):
        structures += results[index]
    splits = assign_splits([a.info["trajectory"] for a in structures], seed)
    for atoms in structures:
        atoms.info["split"] = splits[atoms.info["trajectory"]]
    return structures
