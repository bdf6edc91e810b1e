"""A model and a topology -> a force in an OpenMM System.

    potential  SE3Potential, what users call
    backends   TorchForce and PythonForce
    module     the TorchScript module of one force
    ase        ASE calculator

Units change here: OpenMM's nm, ps and kJ/mol outside, A and eV inside.
"""

from openmm_se3.force.potential import SE3Potential

__all__ = ["SE3Potential"]
