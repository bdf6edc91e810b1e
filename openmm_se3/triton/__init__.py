"""The network as kernels for NVIDIA GPUs, which Triton compiles.

source    the equations of openmm_se3.nn as text for Triton
generate  the part of it that depends on the shape of a network
kernels   makes kernels of the text; whether they can run here
pack      the weights that kernels and matrix products read
blocks    how large the blocks are that programs work on
layer     the launches of one layer
network   the sequence of launches from positions to energy and forces
force     what OpenMM calls
availability  whether the kernels serve a network here; compiles them beforehand
"""
