"""Our models in openmm-ml: ``MLPotential("se3", modelPath="water")``.

openmm-ml finds the factory below through the entry point ``openmmml.potentials`` and
makes one while it is imported itself.  Nothing heavy may be imported here before a
potential is wanted, and the base classes come from ``openmmml.mlpotential``, since
``openmmml`` is only half there at that moment.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import openmm
from openmmml.mlpotential import MLPotentialImpl, MLPotentialImplFactory

# openmm-ml's names of what the energy is counted from, and ours.
ENERGY_TYPES = {"interaction_energy": "interaction", "energy": "total"}
# Options of each System, not of the potential.
OF_SYSTEMS = ("precision", "returnEnergyType", "scale")


class SE3PotentialImplFactory(MLPotentialImplFactory):
    """Makes the implementation behind ``MLPotential("se3")``."""

    def createImpl(
        self,
        name: str,
        modelPath: str = "water",  # noqa: N803
        backend: str = "auto",
        **args: Any,
    ) -> SE3PotentialImpl:
        """Return the implementation.

        Args:
            name: "se3".
            modelPath: Name of a shipped model, or the path of a model.
            backend: "torchforce", "pythonforce" or "auto".
            args: Refused: a misspelled argument would be lost.  ``precision``,
                ``scale`` and ``returnEnergyType`` belong to ``createSystem``.

        Raises:
            TypeError: An argument is unknown.
        """
        if args:
            raise TypeError(
                f"MLPotential('{name}') takes modelPath and backend, got "
                f"{sorted(args)}; {', '.join(OF_SYSTEMS)} belong to createSystem and "
                "createMixedSystem"
            )
        return SE3PotentialImpl(modelPath, backend)


class SE3PotentialImpl(MLPotentialImpl):
    """Adds a model's force to the Systems that openmm-ml makes.

    Args:
        model: Name of a shipped model, or the path of a model.
        backend: "torchforce", "pythonforce" or "auto".
    """

    def __init__(self, model: str, backend: str) -> None:
        self.model = model
        self.backend = backend

    def addForces(
        self,
        topology: openmm.app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None,
        forceGroup: int,  # noqa: N803
        precision: str | None = None,
        returnEnergyType: str = "interaction_energy",  # noqa: N803
        scale: str | None = None,
        **args: Any,
    ) -> None:
        """Add the force to a System.

        openmm-ml has removed bonded terms inside the atoms and excluded their pairs;
        what it leaves, on virtual sites and by periodic images for example, is taken
        out here as in our own ``createMixedSystem``.

        Args:
            topology: Topology of the whole System.
            system: The System; for ``interpolate=True`` one without particles, from
                which openmm-ml takes the force.
            atoms: Atoms that the model acts on, in any order; None for all.
            forceGroup: Force group.
            precision: "single" (the default) or "double".
            returnEnergyType: "interaction_energy" or "energy" (total).
            scale: Name of a global parameter that multiplies the energy.
            args: Options of other potentials; warned of, as they change nothing here.
                ``charge`` and ``multiplicity`` can be 0 and 1 only.

        Raises:
            TypeError: ``modelPath`` or ``backend``, which belong to the potential, are
                given here.
            ValueError: An option is unknown, atoms are unfit for the model, or a
                classical force acts inside them and cannot be taken out.
        """
        from openmm_se3.force import SE3Potential
        from openmm_se3.force.mixed import without_rest
        from openmm_se3.force.remaining import require_nothing_inside

        misplaced = sorted({"modelPath", "backend"}.intersection(args))
        if misplaced:
            raise TypeError(
                f"give {' and '.join(misplaced)} to MLPotential('se3', ...): a System "
                "cannot have another model than its potential"
            )
        for name, neutral in (("charge", 0), ("multiplicity", 1)):
            value = args.pop(name, None)
            if value not in (None, neutral):
                raise ValueError(
                    f"{name} is {value}, but models of this package know neutral, "
                    f"closed-shell molecules only: leave it out, or give {neutral}"
                )
        if args:
            warnings.warn(
                f"MLPotential('se3') does not know {sorted(args)}, which changes "
                f"nothing; it takes {', '.join(OF_SYSTEMS)}",
                stacklevel=4,
            )
        if returnEnergyType not in ENERGY_TYPES:
            raise ValueError(
                f"returnEnergyType must be one of {list(ENERGY_TYPES)}, got "
                f"{returnEnergyType!r}"
            )
        potential = SE3Potential(
            self.model, precision=precision or "single", backend=self.backend
        )
        energy = ENERGY_TYPES[returnEnergyType]
        if system.getNumParticles():
            if atoms is not None:
                atoms = list(atoms)
                without_rest(system, atoms)
                require_nothing_inside(system, atoms)
            potential.addForces(
                system, topology, atoms, forceGroup, energy=energy, scale=scale
            )
        else:
            force = potential.makeForce(
                topology, atoms, forceGroup, energy=energy, scale=scale
            )
            system.addForce(force)

    def getMLLongRange(self) -> bool:
        """Tell openmm-ml 1.8 and later that the model has a cutoff."""
        return False
