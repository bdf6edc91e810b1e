"""Collective variables: which there are, as OpenMM's forces, and their values.

======================  ===========================================================
``distance:A-B``        a distance, A
``difference:A-B,C-D``  the first distance less the second one, A
``sum:A-B,C-D,...``     a sum of distances, A
``angle:A-B-C``         an angle, degrees
``dihedral:A-B-C-D``    a dihedral angle, degrees
``FILE.py``             what its function ``variables(topology)`` returns: forces
                        of OpenMM, whose energy is the variable, or BiasVariables
======================  ===========================================================
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

from openmm_se3.active_learning.reaction.atoms import find_atom
from openmm_se3.active_learning.structures import System
from openmm_se3.units import ANGSTROM_TO_NM, NM_TO_ANGSTROM

MOST = 2  # OpenMM's own limit is 3
FUNCTION = "variables"
PAIRS = {"distance": (1, 1), "difference": (2, 2), "sum": (2, 8)}  # least and most
ATOMS = {"angle": 3, "dihedral": 4}
KINDS = (*PAIRS, *ATOMS)
WIDTHS = {"distance": 0.1, "angle": 8.0, "dihedral": 12.0}  # of a Gaussian, A, degrees
DEGREE = np.pi / 180.0


@dataclasses.dataclass(frozen=True)
class Variable:
    """A collective variable.

    Attributes:
        name: As it was given.
        force: OpenMM's force; its energy is the variable.
        kind: "distance" (also sums and differences), "angle", "dihedral" or "file".
        pairs: Atoms and sign of each distance in it.
        limits: Least value, largest value and width that the file gives, in OpenMM's
            units.
        periodic: Whether the largest value is the least one.
    """

    name: str
    force: openmm.Force
    kind: str
    pairs: tuple[tuple[int, int, float], ...] = ()
    limits: tuple[float, float, float] | None = None
    periodic: bool = False

    @property
    def unit(self) -> str:
        """Unit of the values that are shown."""
        return {"distance": "A", "file": ""}.get(self.kind, "degrees")

    @property
    def scale(self) -> float:
        """OpenMM's units in one of ours."""
        return {"distance": ANGSTROM_TO_NM, "file": 1.0}.get(self.kind, DEGREE)

    @property
    def label(self) -> str:
        """Name and unit, for a figure."""
        return f"{self.name}, {self.unit}" if self.unit else self.name


def read_variables(
    texts: Sequence[str], system: System, folder: Path | None = None
) -> list[Variable]:
    """Return collective variables by what the module's table calls them.

    Args:
        texts: One for each variable, or for each file.
        system: The molecule.
        folder: Where files are; None for the working directory.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A kind or an atom is not known, there are too many variables, or
            they do not go together.
    """
    found: list[Variable] = []
    for text in texts:
        if text.endswith(".py"):
            found += _from_file((folder or Path()) / text, system)
        else:
            found.append(_variable(text, system))
    if len(found) > MOST:
        raise ValueError(
            f"{len(found)} collective variables are too many: metadynamics of more "
            f"than {MOST} does not converge in the time of a campaign"
        )
    if len({variable.periodic for variable in found}) > 1:
        raise ValueError(
            "a dihedral angle cannot be combined with a variable that is not periodic: "
            "OpenMM's metadynamics takes both periodic or none"
        )
    if len({variable.name for variable in found}) < len(found):
        raise ValueError(f"the same variable is given twice: {', '.join(texts)}")
    return found


def copy_files(texts: Sequence[str], folder: Path) -> tuple[str, ...]:
    """Copy the Python files among variables into a folder; return the new texts."""
    found: list[str] = []
    for text in texts:
        if text.endswith(".py"):
            name = f"bias-{len(found) + 1}.py"
            shutil.copyfile(text, folder / name)
            text = name
        found.append(text)
    return tuple(found)


def _variable(text: str, system: System) -> Variable:
    kind, colon, rest = text.partition(":")
    if not colon or kind not in KINDS:
        raise ValueError(
            f"bias {text!r} is no collective variable: give KIND:ATOMS with one of "
            f"{', '.join(KINDS)}, such as distance:O1-H5, or a Python file"
        )
    try:
        groups = [
            [find_atom(name.strip(), system) for name in part.split("-")]
            for part in rest.split(",")
        ]
    except ValueError as error:
        raise ValueError(f"bias {text!r}: {error}") from error
    size = ATOMS.get(kind, 2)
    least, most = PAIRS.get(kind, (1, 1))
    if {len(group) for group in groups} != {size} or not least <= len(groups) <= most:
        raise ValueError(f"bias {text!r} must be {_example(kind)}")
    for group in groups:
        if len(set(group)) < size:
            raise ValueError(f"bias {text!r} names an atom twice")
    if kind in ATOMS:
        return _angle(text, kind, groups[0])
    signs = [1.0, -1.0] if kind == "difference" else [1.0] * len(groups)
    pairs = tuple((i, j, s) for (i, j), s in zip(groups, signs, strict=True))
    force = openmm.CustomBondForce("sign*r")
    force.addPerBondParameter("sign")
    for i, j, sign in pairs:
        force.addBond(i, j, [sign])
    return Variable(text, force, "distance", pairs)


def _example(kind: str) -> str:
    examples = {
        "distance": "distance:A-B",
        "difference": "difference:A-B,C-D",
        "sum": "sum:A-B,C-D with two to eight distances",
        "angle": "angle:A-B-C",
        "dihedral": "dihedral:A-B-C-D",
    }
    return f"{examples[kind]} with atoms as the input names them"


def _angle(text: str, kind: str, atoms: Sequence[int]) -> Variable:
    if kind == "angle":
        force = openmm.CustomAngleForce("theta")
        force.addAngle(*atoms)
        return Variable(text, force, kind)
    force = openmm.CustomTorsionForce("theta")
    force.addTorsion(*atoms)
    return Variable(text, force, kind, periodic=True)


def _from_file(path: Path, system: System) -> list[Variable]:
    """Execute a file and return its variables."""
    if not path.is_file():
        raise FileNotFoundError(f"no file of collective variables {path}")
    try:
        spec = importlib.util.spec_from_file_location("bias", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        function = getattr(module, FUNCTION, None)
        if function is None:
            raise ValueError(f"it has no function {FUNCTION}(topology)")
        made = list(function(named_topology(system)))
    # Whatever the file meets, sys.exit too.
    except (Exception, SystemExit) as error:
        cause = str(error) or type(error).__name__
        raise ValueError(
            f"{path.name} gives no collective variables: {cause}"
        ) from error
    found = []
    for number, one in enumerate(made, start=1):
        name = f"{path.stem} {number}" if len(made) > 1 else path.stem
        if isinstance(one, app.BiasVariable):
            limits = one.minValue, one.maxValue, one.biasWidth
            found.append(Variable(name, one.force, "file", (), limits, one.periodic))
        elif isinstance(one, openmm.Force):
            found.append(Variable(name, one, "file"))
        else:
            raise ValueError(
                f"{path.name}: {FUNCTION}(topology) must return forces of OpenMM or "
                f"BiasVariables, not {type(one).__name__}"
            )
    if not found:
        raise ValueError(f"{path.name}: {FUNCTION}(topology) returned nothing")
    _try(found, system, path)
    return found


def _try(found: Sequence[Variable], system: System, path: Path) -> None:
    try:
        values(found, np.stack(system.minima[:1]))
    except openmm.OpenMMException as error:
        raise ValueError(f"{path.name}: OpenMM refuses a force: {error}") from error


def named_topology(system: System) -> app.Topology:
    """Return the atoms in the order of the campaign, with the names of the input."""
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for name, symbol in zip(system.names, system.symbols, strict=True):
        topology.addAtom(name, app.Element.getBySymbol(symbol), residue)
    return topology


def values(variables: Sequence[Variable], positions: np.ndarray) -> np.ndarray:
    """Return the values of variables [n_frames, n_variables], A or degrees.

    Args:
        variables: The variables.
        positions: Positions [n_frames, n_atoms, 3], A.
    """
    system = openmm.System()
    for _ in range(positions.shape[1]):
        system.addParticle(1.0)
    for group, variable in enumerate(variables):
        force = copy.deepcopy(variable.force)
        force.setForceGroup(group)
        system.addForce(force)
    context = openmm.Context(
        system,
        openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatformByName("Reference"),
    )
    table = np.empty((len(positions), len(variables)))
    for frame, x in zip(table, positions, strict=True):
        context.setPositions(x / NM_TO_ANGSTROM)
        for group, variable in enumerate(variables):
            state = context.getState(energy=True, groups={group})
            energy = state.getPotentialEnergy()
            frame[group] = energy.value_in_unit(unit.kilojoule_per_mole)
            frame[group] /= variable.scale
    return table
