"""A model and a topology -> a force in an OpenMM System.

    potential  SE3Potential, what users call
    atoms      which atoms a model acts on, and whether it knows them
    system_checks  whether a System is fit for a model
    register   what OpenMM needs to open a System from XML
    backends   TorchForce and PythonForce
    memory     what energy and forces need of it, and what there is
    mixed      a classical System prepared for atoms that a model takes over
    plugin     whether TorchForce can be used here

Units change here: OpenMM's nm, ps and kJ/mol outside, A and eV inside.
"""

from openmm_se3.force.potential import SE3Potential
from openmm_se3.force.register import register_plugins

__all__ = ["SE3Potential", "register_plugins"]
