"""Packaging: metadata, dependencies and the shipped models."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "openmm_se3/version.py").read_text(), re.M
)[1]

# torch and openmm are pinned because openmmtorch 1.5, the release with TorchForce, is
# built for them; beside others it aborts the process.  openmm_se3/force/plugin.py
# holds the same numbers.
OPENMM = ">=8.4,<8.6"
# openmmtorch has wheels for Linux on x86-64; elsewhere OpenMM's PythonForce does its
# work.
HAS_PLUGIN = 'sys_platform == "linux" and platform_machine == "x86_64"'

# The plugin's wheels for these two versions of Python are linked to CUDA 13's NVRTC.
NEEDS_NVRTC = f'{HAS_PLUGIN} and (python_version == "3.10" or python_version == "3.13")'

BASE = [
    "torch>=2.9,<2.10",
    f"openmm{OPENMM}",
    f"openmmtorch==1.5; {HAS_PLUGIN}",
    f"nvidia-cuda-nvrtc>=13,<14; {NEEDS_NVRTC}",
    "e3nn>=0.6,<0.7",
    "vesin-torch>=0.6,<0.7",
    "numpy>=1.26",
    "scipy>=1.11",
    "mdtraj>=1.10",
    "safetensors>=0.4",
    "matplotlib>=3.8",
    "click>=8.1",
    "rich>=13",
    "pyyaml>=6",
]

# Structure files of other formats, the ASE calculator, MD for sampling.
ASE = ["ase>=3.23"]

# DGL 1.1.3 is the last release that imports beside this torch.  It has wheels for
# Python 3.10 and 3.11, and imports packaging without naming it.
TRAIN = [
    *ASE,
    "dgl==1.1.3",
    "packaging",
    "lightning-fabric>=2.6",
    "tensorboard>=2.16",
    "h5py>=3.10",
]

DFT = [
    *ASE,
    "pyscf>=2.9",
    "pyscf-dispersion>=1.3",
    "tblite>=0.4",
    "h5py>=3.10",
    "distributed>=2024.8",
]

# Structures of molecules from SMILES.
SAMPLE = [*ASE, "rdkit>=2024.9"]

# AIMNet2's networks are files in the wheel of Auto3D, which is not imported.
TEACHER = [*SAMPLE, "Auto3D==2.3.1", "h5py>=3.10"]

# Active learning: all of these.
LEARN = [*TRAIN, *DFT, *TEACHER]

OPENMM_ML = ["openmmml==1.7", "openmm>=8.5.2,<8.6"]

# OpenMM's CUDA platform and the plugin for it.
CUDA12 = [f"openmm[cuda12]{OPENMM}", f"openmmtorch[cuda12]==1.5; {HAS_PLUGIN}"]

# The tests build a wheel, which older setuptools cannot do alone.
TEST = [
    *TRAIN,
    *DFT,
    *TEACHER,
    *OPENMM_ML,
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3",
    "setuptools>=70.1",
]

# The site of docs/; MkDocs 2 reads another configuration.
DOCS = [
    "mkdocs>=1.6,<2",
    "mkdocs-material>=9.5",
    "mkdocstrings[python]>=0.26",
]

DEV = [*TEST, *DOCS, "ruff>=0.14", "mypy>=1.18", "types-PyYAML", "pre-commit>=4"]

setup(
    name="openmm-se3",
    version=VERSION,
    description="SE(3)-Transformer force fields for molecular dynamics with OpenMM",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="openmm_se3 contributors",
    license="MIT",
    python_requires=">=3.10",
    packages=[*find_packages(include=["openmm_se3*"]), "openmm_se3.models"],
    package_dir={"openmm_se3.models": "models"},
    package_data={
        "openmm_se3": ["py.typed"],
        "openmm_se3.compiled": ["source/*"],
        "openmm_se3.triton": ["source/*"],
        "openmm_se3.report": ["*.css", "*.js"],
        "openmm_se3.models": [
            "*/model.pt",
            "*/weights.safetensors",
            "*/config.json",
            "*/card.md",
            "*/SHA256SUMS",
        ],
    },
    install_requires=BASE,
    extras_require={
        "ase": ASE,
        "train": TRAIN,
        "dft": DFT,
        "sample": SAMPLE,
        "teacher": TEACHER,
        "learn": LEARN,
        "openmm-ml": OPENMM_ML,
        "cuda12": CUDA12,
        "test": TEST,
        "docs": DOCS,
        "dev": DEV,
    },
    entry_points={
        "console_scripts": ["openmm-se3 = openmm_se3.cli:main"],
        "openmmml.potentials": ["se3 = openmm_se3.openmmml:SE3PotentialImplFactory"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Chemistry",
        "Topic :: Scientific/Engineering :: Physics",
    ],
    zip_safe=False,
)
