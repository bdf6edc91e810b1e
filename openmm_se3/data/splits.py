"""Which frames train, validate and test: by groups that must not be torn apart.

Neighboring frames of one trajectory are nearly the same structure.  A test on what is
nearly training data proves nothing, so that whole groups go to one split.
"""

from __future__ import annotations

import dataclasses
import typing

import numpy as np

from openmm_se3.data.dataset import formula
from openmm_se3.data.frames import SPLITS, Frames

TRAIN, VALIDATION, TEST = range(3)
FAR = 2.0  # times a share, or a share divided by this: what is said to miss it


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """How the splits are made, of all files that ``Source.split`` gives none.

    Attributes:
        by: "source" keeps the splits that the files name; "molecule" keeps all frames
            of one formula together, "trajectory" those of one trajectory or group.
        fractions: Shares of training, validation and test among the frames that are
            dealt out; their sum is 1.
        seed: Seed of the order in which groups are dealt out.
        stratify: Whether each split gets groups of each kind and temperature, as far as
            there are enough groups.
    """

    by: typing.Literal["source", "molecule", "trajectory"] = "source"
    fractions: tuple[float, ...] = (0.8, 0.1, 0.1)
    seed: int = 0
    stratify: bool = True

    def __post_init__(self) -> None:
        """Check the shares.

        Raises:
            ValueError: They are not three that add up to one.
        """
        shares = self.fractions
        if (
            len(shares) != len(SPLITS)
            or not min(shares) >= 0.0
            or not abs(sum(shares) - 1.0) <= 1e-6
        ):
            raise ValueError(
                "split.fractions must be three shares (train, validation, test) that "
                f"add up to 1, got {list(shares)}"
            )


def make_splits(frames: Frames, config: SplitConfig) -> np.ndarray:
    """Return the split of each frame [n_frames], as an index into ``SPLITS``.

    Raises:
        ValueError: There are fewer groups than splits with a share.
    """
    splits = frames.column("split")
    free = _free(frames, config)
    splits[free] = _dealt_out(frames[free], config)
    return splits


def missed_shares(frames: Frames, config: SplitConfig) -> list[str]:
    """Return in words which splits are far from the shares that they should have.

    Whole groups go to one split, so that a few large ones leave no choice.

    Args:
        frames: Frames as :func:`make_splits` divided them.
        config: How they were divided.
    """
    dealt = frames.column("split")[_free(frames, config)]
    lines = []
    for split in (VALIDATION, TEST) if len(dealt) else ():
        wanted = config.fractions[split]
        share = float((dealt == split).mean())
        if share > FAR * wanted or FAR * share < wanted:
            lines.append(f"{SPLITS[split]} {share:.1%} instead of {wanted:.1%}")
    return lines


def _free(frames: Frames, config: SplitConfig) -> np.ndarray:
    """Return whether each frame is dealt out [n_frames], and not put by its file."""
    if config.by == "source":
        return np.zeros(len(frames), dtype=bool)
    assigned = np.array([block.assigned for block in frames.blocks], dtype=bool)
    return np.asarray(~assigned[frames.block])


def _dealt_out(frames: Frames, config: SplitConfig) -> np.ndarray:
    """Return a split of each frame [n_frames]; groups stay together."""
    if not len(frames):
        return np.zeros(0, dtype=np.int8)
    groups = group_numbers(frames, config.by)
    counts = np.bincount(groups)
    wanted = [s for s in (TEST, VALIDATION) if config.fractions[s] > 0.0]
    if len(counts) < len(wanted) + 1:
        raise ValueError(
            f"the data hold {len(counts)} groups by {config.by}, too few for "
            f"{len(wanted) + 1} splits: more data, or fewer splits with a share in "
            "split.fractions, or another split.by"
        )
    target = {s: config.fractions[s] * len(frames) for s in wanted}
    split = np.full(len(counts), TRAIN, dtype=np.int8)
    filled = dict.fromkeys(wanted, 0)
    order = np.random.default_rng(config.seed).permutation(len(counts))
    if config.stratify:
        order = _interleaved(order, _strata_of_groups(frames, groups))
    for group in order:
        size = int(counts[group])
        for s in wanted:
            if filled[s] + size / 2 <= target[s]:
                split[group] = s
                filled[s] += size
                break
    for s in wanted:
        if not filled[s]:  # every group is too large: the smallest has to do
            train = np.flatnonzero(split == TRAIN)
            split[train[counts[train].argmin()]] = s
    return split[groups]


def strata(frames: Frames) -> tuple[np.ndarray, list[str]]:
    """Return the stratum of each frame [n_frames], and what each stratum is.

    A stratum is a kind and a temperature, such as "md, 300 K".  A kind that is the
    formula of the frame, as public data have it, is none.
    """
    known: dict[tuple[str, str], int] = {}
    numbers = np.zeros(len(frames), dtype=np.int64)
    for index, rows in frames.by_block():
        block = frames.blocks[frames.block[index[0]]]
        pairs = np.stack([block.kind.codes[rows], block.temperature[rows]], axis=1)
        values, inverse = np.unique(pairs, axis=0, return_inverse=True)
        own = formula(block.numbers)
        local = []
        for code, heat in values:
            kind = block.kind.names[int(code)]
            stratum = ("" if kind == own else kind, _kelvin(heat))
            local.append(known.setdefault(stratum, len(known)))
        numbers[index] = np.array(local)[inverse.ravel()]
    return numbers, [", ".join(filter(None, pair)) for pair in known]


def _kelvin(temperature: float) -> str:
    return f"{temperature:g} K" if np.isfinite(temperature) else ""


def distribution(frames: Frames) -> dict[str, list[int]]:
    """Return the number of frames by kind and temperature in each of ``SPLITS``.

    It is empty where the frames have neither.
    """
    numbers, names = strata(frames)
    if set(names) <= {""}:
        return {}
    counts = np.zeros((len(names), len(SPLITS)), dtype=int)
    np.add.at(counts, (numbers, frames.column("split")), 1)
    named = zip(names, counts.tolist(), strict=True)
    return dict(sorted((name or "unnamed", row) for name, row in named))


def one_sided(frames: Frames) -> list[str]:
    """Return in words which kinds and temperatures not every split has."""
    counts = distribution(frames)
    used = [sum(column) > 0 for column in zip(*counts.values(), strict=True)]
    lines = []
    for name, row in counts.items():
        without = [s for s, n, u in zip(SPLITS, row, used, strict=False) if u and not n]
        if without:
            lines.append(f"{name}: none in {' and '.join(without)}")
    return lines


def _strata_of_groups(frames: Frames, groups: np.ndarray) -> np.ndarray:
    """Return the number of the stratum of each group, that of its first frame."""
    first = np.unique(groups, return_index=True)[1]
    return strata(frames)[0][first]


def _interleaved(order: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    """Return groups in an order whose every part has a like share of each stratum.

    Args:
        order: Groups in random order [n_groups].
        stratum: Stratum of each group [n_groups].
    """
    sizes = np.bincount(stratum).clip(min=1)
    seen = np.zeros(len(sizes))
    place = np.empty(len(order))
    for i, group in enumerate(order):
        number = stratum[group]
        place[i] = (seen[number] + 0.5) / sizes[number]
        seen[number] += 1
    return np.asarray(order[np.argsort(place, kind="stable")])


def group_numbers(frames: Frames, by: str) -> np.ndarray:
    """Return the number of each frame's group [n_frames]."""
    known: dict[tuple[str, ...], int] = {}
    numbers = np.empty(len(frames), dtype=np.int64)
    for index, rows in frames.by_block():
        block = frames.blocks[frames.block[index[0]]]
        if by == "molecule":
            name = (formula(block.numbers),)
            numbers[index] = known.setdefault(name, len(known))
            continue
        local = np.array(
            [
                known.setdefault((block.source, name), len(known))
                for name in block.trajectory.names
            ]
        )
        numbers[index] = local[block.trajectory.codes[rows]]
    # A name that no frame has leaves a gap.
    return np.unique(numbers, return_inverse=True)[1]
