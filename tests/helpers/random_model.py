"""A small network with random weights, and molecules to try it on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from openmm import app, unit
from torch import Tensor

from openmm_se3.config import ModelConfig, to_dict
from openmm_se3.data.splits import SplitConfig
from openmm_se3.nn.transformer import SE3Transformer

# Every degree and every equation, with few channels.  The scale gives forces near 1
# eV/A.
SMALL: dict[str, Any] = {
    "elements": ("H", "O"),
    "cutoff": 4.0,
    "layers": 3,
    "channels": 4,
    "key_channels": 4,
    "heads": 2,
    "lmax": 2,
    "radial_functions": 4,
    "radial_width": 8,
    "self_interaction": "attentive",
    "self_interaction_width": 8,
    "energy_scale": 20.0,
}
# The cheapest network, for what does not depend on its equations.
SMALLEST: dict[str, Any] = {"layers": 1, "lmax": 0, "channels": 2, "heads": 1}
# O and two H, near water's minimum, A.
WATER = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])
# A box smaller than two cutoffs of 4 A: atoms see several images of others and of
# themselves, A.
BOX = np.array([[6.5, 0.0, 0.0], [1.5, 6.2, 0.0], [-1.0, 2.0, 6.4]])
SELF_ENERGIES = {"H": -13.5, "O": -2041.25}  # eV


def small_config(**changes: Any) -> ModelConfig:
    return ModelConfig(**{**SMALL, **changes})


def random_network(
    dtype: torch.dtype = torch.float64, seed: int = 0, **changes: Any
) -> SE3Transformer:
    """Return a network in evaluation mode whose parts all matter to its output.

    The weights that a new network starts with let hidden degrees and attention change
    the forces by parts in a thousand only; larger ones make a fault in them show.
    """
    torch.manual_seed(seed)
    network = SE3Transformer(small_config(**changes))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not name.startswith("embedding"):
                parameter.mul_(1.5)
    return network.to(dtype).eval()


def water_cluster(n_molecules: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return species [n_atoms] and positions [n_atoms, 3] (A, float64) of O H H O H H
    ...

    Molecules stand on a grid 2.9 A apart, turned at random and distorted.
    """
    rng = np.random.default_rng(seed)
    side = int(np.ceil(n_molecules ** (1.0 / 3.0)))
    molecules = []
    for index in range(n_molecules):
        corner = 2.9 * np.array([index % side, index // side % side, index // side**2])
        rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        noise = 0.05 * rng.normal(size=(3, 3))
        molecules.append(WATER @ rotation.T + corner + noise)
    species = torch.tensor([1, 0, 0]).repeat(n_molecules)
    return species, torch.tensor(np.concatenate(molecules))


def topology_of(symbols: list[str], box: np.ndarray | None = None) -> app.Topology:
    """Return a topology of single-residue atoms; box vectors as rows [3, 3] in A."""
    topology = app.Topology()
    chain = topology.addChain()
    residue = topology.addResidue("MOL", chain)
    for index, symbol in enumerate(symbols):
        topology.addAtom(f"{symbol}{index}", app.Element.getBySymbol(symbol), residue)
    if box is not None:
        topology.setPeriodicBoxVectors(box * unit.angstrom)
    return topology


def random_checkpoint(**changes: Any) -> dict[str, Any]:
    """Return what training writes, as far as export reads it, for a random network."""
    network = random_network(torch.float32, **changes)
    return {
        "model": to_dict(network.config),
        "average": network.state_dict(),
        "reference": {"symbols": ["O", "H", "H"], "positions": WATER.tolist()},
        "versions": {"torch": torch.__version__},
        "level_of_theory": {"method": "none", "basis": "none"},
        "self_energies": SELF_ENERGIES,
        "data": {"sha256": "0" * 64, "files": [], "surroundings": "free"},
        "choices": {"split": to_dict(SplitConfig())},
        "training": {},
        "step": 3,
    }


def write_random_model(folder: Path, **changes: Any) -> Path:
    """Export a random network and return the model's folder."""
    from openmm_se3.export import export_model

    export_model(random_checkpoint(**changes), folder)
    return folder


def write_random_weights(folder: Path, **changes: Any) -> Path:
    """Write what of a model's folder SE3Potential reads: all but the TorchScript."""
    from openmm_se3.export import model_of_checkpoint
    from openmm_se3.model_file import contents

    model = model_of_checkpoint(random_checkpoint(**changes), folder.name, "MIT")
    folder.mkdir()
    for name, content in contents(model).items():
        (folder / name).write_bytes(content)
    return folder
