"""Trained model -> self-describing files, checked equal to the network before use.

modules    TorchScript modules in OpenMM's units
engine     what computes a network, and compiling it
build      the module of one force: its model, its atoms, a box or none
checks     exported equals eager
write      checkpoint -> files
"""

from openmm_se3.export.checks import ExportError
from openmm_se3.export.write import export_model, export_topology
from openmm_se3.modelfile import ModelFile, ModelFileError, load_model

__all__ = [
    "ExportError",
    "ModelFile",
    "ModelFileError",
    "export_model",
    "export_topology",
    "load_model",
]
