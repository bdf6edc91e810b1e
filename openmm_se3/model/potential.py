"""Energy and forces as a plain function of a network and tensors."""

from __future__ import annotations

from openmm_se3.model.transformer import SE3Transformer

energy_and_forces = SE3Transformer.energy_and_forces
