"""Charged particles in a box: the toy problem on which the thesis tried its network.

particles   the simulation that makes the data
network     an SE(3)-Transformer from positions, velocities and charges
learning    training and errors
figure      true and predicted trajectories
run         the script: python examples/nbody/run.py
"""
