"""Networks and optimiser settings by name: the thesis's, and ours.

A preset stands in a configuration file as ``preset: NAME``; every key that the file
gives itself goes before the preset's.

The thesis (Hedelius 2021, chapters 2 and 3) gives three layers of eight heads with two
or four channels a head, orders up to 2 or 3, kernels with a radial function for each
pair of channels, the norm nonlinearity (2.9), one-hot species and direct forces; Adam
from a learning rate of 1e-3, cut to 1e-5 and 1e-7 after 43 and 88 percent of the steps
("86,000 and 176,000 of 200,000"), clipped gradients and batches of about 100 molecules.
Its attention is a plain softmax over neighbours, and the radial networks see the
distance itself.  It does not say what cutoff, width of the radial networks or clipping
it used: those are ours.
"""

from __future__ import annotations

from typing import Any

THESIS_MODEL: dict[str, Any] = {
    "layers": 3,
    "heads": 8,
    "channels": 16,
    "key_channels": 16,
    "lmax": 2,
    "jmax": None,
    "mirror": False,
    "kernel": "full",
    "envelope": "none",
    "radial_basis": "distance",
    "self_interaction": "attentive",
    "nonlinearity": "norm",
    "embedding": "one-hot",
    "force_mode": "direct",
    "wall": False,
}
THESIS_TRAINING: dict[str, Any] = {
    "steps": 341_000,
    "batch_size": 100,
    "energy_weight": 1.0,
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "schedule": "steps",
    "milestones": [0.43, 0.88],
    "milestone_factor": 1e-2,
    "clip_norm": 10.0,
    "average_decay": 0.0,
    "product_rate": 1.0,
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
    # The network trained on ANI-1, which has no forces.
    "thesis-energy-only": {
        "model": {**THESIS_MODEL, "force_mode": "conservative"},
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
            "learning_rate": 1e-2,
            "warmup_steps": 500,
            "average_decay": 0.999,
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
