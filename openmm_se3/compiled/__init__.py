"""The network compiled for the CPU of this machine: a fast path beside the reference.

source    the equations of openmm_se3.nn as C++
codegen   the part of it that depends on the shape of a network
cache     where it is kept, and whether that can be trusted
library   finds the compiler, compiles it, loads it
weights   the weights and tables that it reads
force     what OpenMM calls
training  what training calls: batches, and derivatives by the weights
"""
