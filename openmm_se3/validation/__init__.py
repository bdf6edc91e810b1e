"""Checks of a model before it is used in MD, one file per kind of check.

| file            | what it checks                                                     |
|-----------------|--------------------------------------------------------------------|
| ``symmetry``    | equivariance error (3.1) of layers and network, permutation        |
| ``energies``    | finite differences, isolated atoms, the cutoff                     |
| ``dynamics``    | OpenMM's Verlet against ``openmm_se3.verlet``                 |
| ``drift``       | the drift of the energy in a short NVE run                         |
| ``backends``    | eager, TorchForce, PythonForce and ASE; platforms and precisions   |
| ``structures``  | what the checks run on, made from the model's elements             |
| ``validate``    | all of the above in one call                                       |
| ``report``      | the result as a table and as JSON                                  |
"""
