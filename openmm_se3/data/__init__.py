"""Structures and their labels: reading, checking, dividing, making.

frames, dataset  labeled frames, one by one and by the million
load             a file or folder of labels, whatever its format
formats/         one module a format
checks/          units, near duplicates, summaries
splits           which frames train, validate and test
self_energies    energies of isolated atoms
labeling/        structures to label, and what labels them
"""
