"""The network compiled for the CPU of this machine: a fast path beside the reference.

``network.cpp`` holds the equations of :mod:`openmm_se3.model` as C++, ``generate`` the
part of it that depends on the shape of a network, ``pack`` the weights and tables it
reads, ``library`` compiles and keeps it, ``force`` is what OpenMM calls.
"""
