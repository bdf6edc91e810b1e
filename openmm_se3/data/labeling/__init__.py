"""Structures to label, and what labels them.

water_sampler     structures of water
molecules         molecules from SMILES, SDF, PDB and XYZ files
given_structures  positions and charges of PDB and XYZ files
molecule_sampler  structures of molecules: conformers, distortions, complexes
sample_file       the same into a file, resumable
label, dft        labels by DFT, resumable
batches           labels by fast potentials, in batches, resumable
labelers          these potentials: AIMNet2, GFN2-xTB, models of ours, others
executors         processes of this machine, or of a Dask cluster
"""
