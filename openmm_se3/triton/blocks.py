"""How large the blocks are that programs on a GPU work on."""

from __future__ import annotations

import dataclasses

import torch

from openmm_se3.config import ModelConfig

# Numbers that a thread has of each component of a block of values: fewer leave threads
# without work, more do not fit into registers.
NUMBERS_OF_A_THREAD = 4
WARPS = 4
THREADS = 32 * WARPS
CANDIDATES = 1024  # atoms that are looked at together as neighbors
# Atoms of a block of the gate and the energy head: the least that Triton multiplies.
ATOMS = 16
# Bytes of an atom's products of channels that are multiplied together, by so many
# warps: the loop over all of them is what a few atoms wait for.
PAIRS_BYTES, WARPS_OF_PAIRS = 512, 8
SUMMED = 1024  # energies that are added up together


def power_of_two(number: int) -> int:
    """Return the least power of two that is not below a number."""
    return 1 << max(number - 1, 0).bit_length()


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Sizes of blocks for a network, as kernels take them.

    Attributes:
        edges: Edges of a block of attention.
        edges_back: Edges of a block of its backward pass, which has more of each.
        heads: Heads, as a power of two.
        keys: Channels of keys a head, as a power of two.
        values: Channels of values a head, as a power of two.
        channels: Channels of single atoms, as a power of two.
    """

    edges: int
    edges_back: int
    heads: int
    keys: int
    values: int
    channels: int

    @classmethod
    def of(cls, config: ModelConfig) -> Blocks:
        """Return sizes for a network."""
        heads = power_of_two(config.heads)
        values = power_of_two(config.channels // config.heads)
        edges = NUMBERS_OF_A_THREAD * THREADS // (heads * values)
        edges = min(max(edges, 4), 32)
        return cls(
            edges,
            max(edges // 2, 4),
            heads,
            power_of_two(config.key_channels // config.heads),
            values,
            max(ATOMS, power_of_two(config.channels)),
        )

    def of_attention(self, edges: int) -> dict[str, int]:
        """Return the arguments of attention's kernels."""
        return {
            "EDGES": edges,
            "HEADS_2": self.heads,
            "KEYS_2": self.keys,
            "VALUES_2": self.values,
        }

    def of_self_interaction(
        self, config: ModelConfig, dtype: torch.dtype
    ) -> dict[str, int]:
        """Return the arguments of the kernels of attentive self-interaction."""
        pairs = PAIRS_BYTES // dtype.itemsize
        return {
            "ATOMS": ATOMS,
            "CHANNELS_2": self.channels,
            "WIDTH_2": max(ATOMS, power_of_two(config.self_interaction_width)),
            "TOGETHER": max(pairs // self.channels, 1),
        }
