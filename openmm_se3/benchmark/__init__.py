"""Time per MD step, OpenMM included.

timing   any System, stepped and timed in turns with others
model    a model with every backend, implementation and platform present
memory   what a process has had
machine  what a timing depends on
"""
