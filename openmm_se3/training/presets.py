"""Networks and optimizer settings by name: the thesis's, and ours.

A preset stands in a configuration file as ``preset: NAME``; every key that the file
gives itself goes before the preset's.

The thesis (Hedelius 2021, chapters 2 and 3) gives three layers of eight heads with two
or four channels a head, orders up to 2 or 3, kernels with a radial function for each
pair of channels, a plain softmax over neighbors (2.5), the norm nonlinearity (2.9),
ReLU as the only activation, one-hot species, and type-0 and type-1 outputs of the last
layer as energies and forces.  Trained were labels without self-energies, normalized,
with an energy weight of 1, by Adam at a constant rate of 1e-3 (Table 3.2, Fig. 3.5:
341,000 steps), with clipped gradients and batches of about 100 molecules.

What it does not say is ours: the cutoff, the width and the depth of the radial networks
and of (2.6), the limit of the gradient, how initial weights are drawn, and what radial
networks see (the distance, as in the original SE(3)-Transformer).  What differs is in
docs/training.md, "The networks of the thesis".
"""

from __future__ import annotations

from typing import Any

from openmm_se3.units import HARTREE_TO_EV

THESIS_MODEL: dict[str, Any] = {
    "layers": 3,
    "heads": 8,
    "channels": 16,
    "key_channels": 16,
    "lmax": 2,
    "jmax": None,
    "symmetry": "SO(3)",
    "kernel": "full",
    "envelope": "none",
    "radial_basis": "distance",
    "attention": "softmax",
    "activation": "relu",
    "self_interaction": "attentive",
    "nonlinearity": "norm",
    "embedding": "one-hot",
    "readout": "linear",
    "isolated_atoms": "learned",
    "force_mode": "direct",
    # Outputs of order one are normalized labels: deviation of ANI-1x (Table 3.1).
    "energy_scale": 0.106 * HARTREE_TO_EV,
    "zbl": False,
}
THESIS_TRAINING: dict[str, Any] = {
    "steps": 341_000,
    "batch_size": 100,
    "normalize": True,
    "energy_weight": 1.0,
    "energy_per": "frame",
    "forces_per": "frame",
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "schedule": "constant",
    "clip_norm": 10.0,
    "ema_decay": 0.0,
    "product_lr_scale": 1.0,
}
WIDER = {"channels": 32, "key_channels": 32}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "thesis-basic": {"model": THESIS_MODEL, "training": THESIS_TRAINING},
    "thesis-wider": {"model": {**THESIS_MODEL, **WIDER}, "training": THESIS_TRAINING},
    # Its batches were "about the third of the size".
    "thesis-higher-order": {
        "model": {**THESIS_MODEL, **WIDER, "lmax": 3},
        "training": {**THESIS_TRAINING, "batch_size": 33},
    },
    # The network trained on ANI-1, which has no forces, and another deviation.
    "thesis-energy-only": {
        "model": {
            **THESIS_MODEL,
            "force_mode": "conservative",
            "energy_scale": 0.110 * HARTREE_TO_EV,
        },
        "training": {**THESIS_TRAINING, "force_weight": 0.0},
    },
    # Ours.  The shipped water model has one layer more and was trained longer.
    "default": {
        "model": {
            "cutoff": 6.0,
            "channels": 32,
            "key_channels": 16,
            "heads": 4,
            "jmax": 2,
        },
        "training": {
            "steps": 30_000,
            "batch_size": 16,
            "energy_per": "sqrt-atom",
            "energy_weight": 0.2,
            "optimizer": "muon",
            "learning_rate": 1e-2,
            "warmup_steps": 500,
            "ema_decay": 0.999,
            "clip_ratio": 3.0,
        },
    },
    # The shipped model "organic".
    "organic": {
        "model": {
            "elements": ["H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I"],
            "cutoff": 5.0,
            "channels": 64,
            "key_channels": 32,
            "heads": 4,
            "jmax": 2,
        },
        "training": {
            "steps": 60_000,
            "batch_size": 16,
            "energy_per": "sqrt-atom",
            "energy_weight": 1.0,
            "huber_delta": 0.1,
            "optimizer": "muon",
            "learning_rate": 1e-2,
            "warmup_steps": 1000,
            "ema_decay": 0.999,
            "clip_ratio": 3.0,
        },
    },
}


def with_preset(values: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration's plain values with those of its preset filled in.

    Raises:
        ValueError: There is no such preset.
    """
    values = dict(values)
    name = values.pop("preset", None)
    if name is None:
        return values
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"preset must be one of {list(PRESETS)}, got {name!r}")
    for section, defaults in PRESETS[name].items():
        given = values.get(section) or {}
        if not isinstance(given, dict):
            raise ValueError(f"{section} must be a mapping, got {given!r}")
        values[section] = {**defaults, **given}
    return values
