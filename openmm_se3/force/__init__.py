"""A model and a topology -> a force in an OpenMM System.

    potential  SE3Potential, what users call
    evaluator  energies, forces, stress and uncertainty without a System
    atoms      which atoms a model acts on, and whether it knows them
    maker      makes the forces and adds them to Systems
    system_checks  whether a System is fit for a model
    register   what OpenMM needs to open a System from XML
    backends   TorchForce and PythonForce
    memory     what energy and forces need of it, and what there is
    mixed      a classical System prepared for atoms that a model takes over
    plugin     whether TorchForce can be used here

Units change here: OpenMM's nm, ps and kJ/mol outside, A and eV inside.
"""

from openmm_se3.force.evaluator import Evaluator
from openmm_se3.force.potential import SE3Potential
from openmm_se3.force.register import register_plugins

__all__ = ["Evaluator", "SE3Potential", "register_plugins"]
