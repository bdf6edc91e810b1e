"""All analyses of one recording together."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np

from openmm_se3.analysis.energies import Energies, energies
from openmm_se3.analysis.geometry import (
    MAX_MOLECULES,
    Cluster,
    Geometry,
    bonds,
    cluster,
    geometry,
    water_molecules,
)
from openmm_se3.analysis.liquid import Liquid, liquid
from openmm_se3.analysis.read import Recording
from openmm_se3.analysis.spectrum import (
    Spectrum,
    internal_velocities,
    spectrum,
)
from openmm_se3.analysis.stability import Stability, judge
from openmm_se3.elements import chemical_symbol, hill_formula
from openmm_se3.molecules import molecules_by_bonds

# Runs that the guard stopped have come to their end.
UNFINISHED = {
    "interrupted": "interrupted",
    "failed": "failed",
    "running": "not ended",
}


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What a recording shows; a part that cannot be given is None.

    Attributes:
        recording: What was analyzed.
        stability: The verdict.
        geometry: Bond lengths, angles and torsions, of the good frames.
        cluster: O-O distances and hydrogen bonds, of the good frames.
        liquid: Density and pair distributions of a box, of the good frames.
        energies: Drift and temperature.
        spectrum: Of motions inside the molecules.
        whole_spectrum: Of all motions, for more than one molecule.
        missing: One sentence for each thing that cannot be given, and why.
    """

    recording: Recording
    stability: Stability
    geometry: Geometry | None
    cluster: Cluster | None
    liquid: Liquid | None
    energies: Energies | None
    spectrum: Spectrum | None
    whole_spectrum: Spectrum | None
    missing: tuple[str, ...]

    def __repr__(self) -> str:
        """Say what was measured; the arrays would fill screens."""
        parts = ("geometry", "cluster", "liquid", "energies", "spectrum")
        there = [name for name in parts if getattr(self, name) is not None]
        verdict = "STABLE" if self.stability.stable else "UNSTABLE"
        return (
            f"Analysis({verdict}, {self.stability.frames} good frames; "
            f"{', '.join(there) or 'nothing measured'})"
        )

    @property
    def formulas(self) -> dict[str, int]:
        """Number of molecules by formula, of those with bonds."""
        topology = self.recording.trajectory.topology
        symbols = np.array([chemical_symbol(atom.element) for atom in topology.atoms])
        molecules = molecules_by_bonds(topology.n_atoms, bonds(topology))
        return dict(Counter(hill_formula(symbols[atoms]) for atoms in molecules))

    @property
    def is_water(self) -> bool:
        """Whether every atom is one of a water molecule."""
        topology = self.recording.trajectory.topology
        return 3 * len(water_molecules(topology)) == topology.n_atoms

    @property
    def unfinished(self) -> str:
        """How a run stands that did not come to its end; empty for all others."""
        return UNFINISHED.get(self.recording.run.get("status", ""), "")


def analyze(recording: Recording) -> Analysis:
    """Analyze a run or any trajectory.

    Frames after the first bad one are left out of everything but the verdict.
    """
    stability = judge(recording)
    missing = list(recording.missing)
    run, trajectory = recording.run, recording.trajectory
    good = trajectory if stability.stable else trajectory[: stability.frames]
    shapes = geometry(good)
    if shapes is None:
        missing.append("No geometry: there is no good frame.")
    if len(water_molecules(trajectory.topology)) > MAX_MOLECULES:
        missing.append(f"No hydrogen bonds: more than {MAX_MOLECULES} molecules.")
    thermal = None
    if recording.log:
        nve = run["options"]["ensemble"] == "nve"
        thermal = energies(
            recording.log, run["options"]["temperature"], run["degrees_of_freedom"], nve
        )
        if not nve:
            missing.append("No energy drift: a thermostat changes the energy.")
        elif thermal is None or thermal.drift is None:
            missing.append("No energy drift: the run is too short for block means.")
    inside = whole = None
    if recording.velocities is not None:
        try:
            inside, whole = _spectra(recording, stability.frames)
            if inside is None:
                missing.append("No vibrational spectrum: too few frames.")
        except ValueError as error:
            missing.append(
                f"No vibrational spectrum: {error}; a run with --frame-interval 2.5 "
                "(in Python frame_fs=2.5) gives one."
            )
    return Analysis(
        recording=recording,
        stability=stability,
        geometry=shapes,
        cluster=cluster(good),
        liquid=liquid(good),
        energies=thermal,
        spectrum=inside,
        whole_spectrum=whole,
        missing=tuple(missing),
    )


def _spectra(
    recording: Recording, frames: int
) -> tuple[Spectrum | None, Spectrum | None]:
    assert recording.velocities is not None
    run, topology = recording.run, recording.trajectory.topology
    masses = np.array(run["masses"])
    dt = run["options"]["dt_fs"]
    interval = run["frame_interval"] * dt
    velocities = np.asarray(recording.velocities[:frames], float)
    # Positions at the time of the velocities, half a step before the frame.
    positions = 10.0 * np.asarray(recording.trajectory.xyz[:frames], float)
    positions -= velocities * dt / 2.0
    internal = np.zeros_like(velocities)
    molecules = molecules_by_bonds(topology.n_atoms, bonds(topology))
    for atoms in molecules:
        internal[:, atoms] = internal_velocities(
            positions[:, atoms],
            velocities[:, atoms],
            masses[atoms],
            recording.reference[atoms],
        )
    inside = spectrum(internal, masses, interval, dt)
    whole = None
    if len(molecules) > 1:
        whole = spectrum(velocities, masses, interval, dt)
    return inside, whole
