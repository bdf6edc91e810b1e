"""Checkpoints: where a run goes on after a stop, a kill or a power cut.

A checkpoint is three files, PHASE-STEP with these suffixes:

    .chk   OpenMM's binary checkpoint: the whole state, random numbers included, for the
           same platform and the same versions
    .xml   the State, for any platform and version: positions, velocities, box,
           thermostat
    .json  step, sizes of the trajectory and the log, what the run is of, where it ran,
           and SHA-256 of all; written last, it makes the three valid

The two newest are kept, so that a damaged one costs no more than an interval.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app, unit

from openmm_se3.config import differences
from openmm_se3.files import atomic_write
from openmm_se3.renamed_fields import with_new_names
from openmm_se3.simulation.ensemble import set_seed
from openmm_se3.simulation.folder import write_json
from openmm_se3.version import installed_version

KEPT = 2
BINARY, STATE, FACTS = ".chk", ".xml", ".json"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and is whole.

    Attributes:
        phase: "equilibration" or "production".
        step: Step within the phase.
        seconds: Wall time of the phase so far.
        sizes: Bytes of each file that the phase writes.
        identity: What the run is of; see ``identity.py``.
        environment: Where it ran.
        binary: OpenMM's checkpoint.
        state: The State as XML.
        uncertainty: Frames of a committee that were counted so far.
    """

    phase: str
    step: int
    seconds: float
    sizes: dict[str, int]
    identity: dict[str, Any]
    environment: dict[str, str]
    binary: bytes
    state: str
    uncertainty: dict[str, Any] | None = None

    def refuse_others(self, identity: dict[str, Any]) -> None:
        """Make sure that the checkpoint is of the run that wants to go on.

        Raises:
            ValueError: It is of another system, model or settings; says what differs.
        """
        lines = differences(self.identity, identity)
        of_model = [line for line in lines if line.startswith("model.")]
        if len(of_model) > 1:  # which of its facts differ tells nobody more
            others = [line for line in lines if line not in of_model]
            lines = ["the model is another one", *others]
        if lines:
            raise ValueError(
                f"this is another run than the one in the folder: {'; '.join(lines)}; "
                "undo the change, or start a new run with another folder or --overwrite"
            )

    def refuse_short_files(self, folder: Path) -> None:
        """Make sure that the files hold all that they held at the checkpoint.

        Raises:
            ValueError: One is shorter.
        """
        for name, size in self.sizes.items():
            path = folder / name
            found = path.stat().st_size if path.is_file() else 0
            if found < size:
                raise ValueError(
                    f"{path} has {found} bytes, at the checkpoint it had {size}: it "
                    "was changed since, or the checkpoint is of another run; put the "
                    "files back, or start again with --overwrite"
                )

    def restore(
        self, simulation: app.Simulation, here: dict[str, str], seed: int
    ) -> str:
        """Put a simulation into the state of the checkpoint.

        Args:
            simulation: The simulation.
            here: Its environment.
            seed: Seed of the run.

        Returns:
            Why the trajectory will not be that of an uninterrupted run; empty if it
            will be.
        """
        causes = differences(self.environment, here)
        if not causes:
            try:
                simulation.context.loadCheckpoint(self.binary)
                return ""
            except openmm.OpenMMException as error:
                causes = [str(error)]
        why = "; ".join(causes)
        warnings.warn(
            f"the binary checkpoint does not fit ({why}); going on from the State XML: "
            "the trajectory is not bit-identical to that of an uninterrupted run",
            stacklevel=2,
        )
        # Not the seed of the start, whose random numbers were used before.
        set_seed(simulation, 1 + (seed + self.step) % (2**31 - 2))
        simulation.context.reinitialize()
        simulation.context.setState(openmm.XmlSerializer.deserialize(self.state))
        return why


class Checkpoints:
    """The checkpoints of one run.

    Args:
        path: Their folder; made when the first is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, context: openmm.Context, facts: dict[str, Any]) -> None:
        """Write a checkpoint and delete all but the newest two.

        Args:
            context: Holds the state.
            facts: The attributes of :class:`Checkpoint` but for the state itself.
        """
        self.path.mkdir(exist_ok=True)
        stem = self.path / f"{facts['phase']}-{facts['step']:012d}"
        state = context.getState(
            positions=True, velocities=True, parameters=True, integratorParameters=True
        )
        contents = {
            BINARY: context.createCheckpoint(),
            STATE: openmm.XmlSerializer.serialize(state).encode(),
        }
        for suffix, content in contents.items():
            with atomic_write(stem.with_suffix(suffix)) as temporary:
                temporary.write_bytes(content)
        digests = _digests(contents, facts)
        write_json(stem.with_suffix(FACTS), {**facts, "sha256": digests})
        self._keep(self._stems()[-KEPT:])

    def newest(self) -> Checkpoint | None:
        """Read the newest whole checkpoint; None if none was ever written.

        Later ones, which are damaged, are deleted, with a warning.

        Raises:
            ValueError: There are checkpoints and none is whole.
        """
        stems, faults = self._stems(), []
        for index in reversed(range(len(stems))):
            try:
                checkpoint = _read(stems[index])
            except (OSError, ValueError, KeyError, TypeError) as error:
                faults.append(f"the checkpoint {stems[index].name} is damaged: {error}")
                continue
            if faults:
                warnings.warn(
                    f"{'; '.join(faults)}; going on from the one before, "
                    f"{stems[index].name}",
                    stacklevel=2,
                )
            self._keep(stems[: index + 1])
            return checkpoint
        if faults:
            raise ValueError(f"{'; '.join(faults)}; start again with --overwrite")
        return None

    def _stems(self) -> list[Path]:
        """Return the paths without suffix, oldest first."""
        return sorted(path.with_suffix("") for path in self.path.glob(f"[!.]*{FACTS}"))

    def _keep(self, stems: list[Path]) -> None:
        """Delete all other files, those that a kill left half written included."""
        for path in self.path.iterdir():
            if path.with_suffix("") not in stems:
                path.unlink()


def _read(stem: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ValueError: It is not what was written.
    """
    facts = json.loads(stem.with_suffix(FACTS).read_text(encoding="utf-8"))
    contents = {s: stem.with_suffix(s).read_bytes() for s in (BINARY, STATE)}
    expected = facts.pop("sha256")
    for suffix, digest in _digests(contents, facts).items():
        if digest != expected[suffix]:
            raise ValueError(f"the SHA-256 of {stem.name}{suffix} is another")
    facts["environment"] = with_new_names("environment", facts["environment"])
    return Checkpoint(binary=contents[BINARY], state=contents[STATE].decode(), **facts)


def _digests(contents: dict[str, bytes], facts: dict[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of the three files by suffix; of the facts, their values."""
    text = json.dumps(facts, sort_keys=True).encode()
    everything = {**contents, FACTS: text}
    return {s: hashlib.sha256(data).hexdigest() for s, data in everything.items()}


# Forces of code, which has no reproducible bytes; the model's hash stands for it.
# Those of plugins, such as TorchForce, come out of a System as plain Force.
FORCES_OF_CODE = ("Force", "TorchForce", "PythonForce")
# Properties of a platform without which its binary checkpoints do not fit.
PROPERTIES = ("Threads", "DeviceName", "Precision")


def identity(
    system: openmm.System,
    topology: app.Topology,
    positions: np.ndarray,
    settings: dict[str, Any],
    model: dict[str, Any],
) -> dict[str, Any]:
    """Return what a run is of, as plain values: two runs with the same are the same.

    Args:
        system: Particles and forces.
        topology: Atoms and bonds.
        positions: Start [n_atoms, 3], A.
        settings: Options that decide the trajectory.
        model: What identifies the model, its hash for one.
    """
    elements = Counter(
        atom.element.symbol if atom.element else "?" for atom in topology.atoms()
    )
    box = None
    if system.usesPeriodicBoundaryConditions():
        box = [
            [round(x, 6) for x in vector.value_in_unit(unit.angstrom)]
            for vector in system.getDefaultPeriodicBoxVectors()
        ]
    parts = [
        str([system.getParticleMass(i)._value for i in range(len(positions))]),
        str([(bond[0].index, bond[1].index) for bond in topology.bonds()]),
        str(
            [
                system.getConstraintParameters(i)
                for i in range(system.getNumConstraints())
            ]
        ),
        *(
            openmm.XmlSerializer.serialize(force)
            for force in system.getForces()
            if type(force).__name__ not in FORCES_OF_CODE
        ),
    ]
    return {
        "system": {
            "atoms": len(positions),
            "elements": " ".join(f"{s}{elements[s]}" for s in sorted(elements)),
            "box": box,
            "sha256": hashlib.sha256("\n".join(parts).encode()).hexdigest(),
            "start_sha256": hashlib.sha256(positions.tobytes()).hexdigest(),
        },
        "model": model,
        "settings": settings,
    }


def environment(
    context: openmm.Context, backend: str, implementation: str
) -> dict[str, str]:
    """Return where a run computes: elsewhere its binary checkpoints do not fit."""
    platform = context.getPlatform()
    return {
        "platform": platform.getName(),
        "openmm": openmm.Platform.getOpenMMVersion(),
        "torch": installed_version("torch") or "",
        "backend": backend,
        "implementation": implementation,
        **{
            name: platform.getPropertyValue(context, name)
            for name in platform.getPropertyNames()
            if name in PROPERTIES
        },
    }
