"""A model and a topology -> a force in an OpenMM System.

    potential  SE3Potential, what users call
    atoms      which atoms a model acts on, and whether it knows them
    fitness    whether a System is fit for a model
    backends   TorchForce and PythonForce
    memory     what energy and forces need of it, and what there is
    mixed      a classical System prepared for atoms that a model takes over
    ase        ASE calculator

Units change here: OpenMM's nm, ps and kJ/mol outside, A and eV inside.
"""

import vesin_torch  # noqa: F401  (registers the neighbour list that modules hold)

from openmm_se3 import plugin
from openmm_se3.compiled.library import load_compiled_networks
from openmm_se3.force.potential import SE3Potential

# Loads the plugin where it is fit, so that a System with a TorchForce opens from XML.
plugin.torchforce_problem()
load_compiled_networks()

__all__ = ["SE3Potential"]
