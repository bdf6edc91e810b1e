"""The network compiled for the CPU of this machine: a fast path beside the reference.

source    the equations of openmm_se3.model as C++
generate  the part of it that depends on the shape of a network
compiler  the C++ compiler of this machine
cache     where it is kept, and whether that can be trusted
library   compiles it, loads it
pack      the weights and tables that it reads
force     what OpenMM calls
training  what training calls: batches, and derivatives by the weights
"""
