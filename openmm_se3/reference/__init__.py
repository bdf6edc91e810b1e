"""Structures, their DFT labels, and the files that hold both."""
