"""Reading HDF5 files that others made, without trusting them.

A file can point out of itself (external and soft links, external storage, virtual
datasets), hold pickled objects, be cut short, or declare arrays far larger than the
data it stores.  Each of these ends in a ValueError that names the file and the place.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from openmm_se3.available_memory import GB, available_memory
from openmm_se3.data.formats.hdf5_check import require_readable

# The most that deflate can compress, and an allowance for small arrays.
MAX_COMPRESSION = 1032
SMALL_ARRAY = 1 << 16  # bytes
# Arrays of this size hold different numbers, which do not compress so well.
LARGE_ARRAY, MAX_COMPRESSION_LARGE = 1 << 26, 100
MAX_DEPTH = 32  # groups in groups
NAMES_SHOWN = 12
SHARE_OF_MEMORY = 0.8  # of what is left, that one file may take


def open_kept(path: str | Path) -> h5py.File:
    """Open an HDF5 file for reading, by frame, for as long as it is referred to.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not HDF5, or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    if not h5py.is_hdf5(path):
        with open(path, "rb") as raw:
            raise ValueError(f"{path} is not HDF5; it starts with {raw.read(20)!r}")
    require_readable(path)
    with damage_named(path):
        # Files here are written whole and then renamed, so that no lock is needed, and
        # some file systems have none.
        return h5py.File(path, "r", locking=False)


@contextlib.contextmanager
def open_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not HDF5, or damaged; damage met while it is read included.
    """
    with damage_named(path), open_kept(path) as file:
        yield file


@contextlib.contextmanager
def damage_named(path: str | Path) -> Iterator[None]:
    """Turn what HDF5 raises on a damaged file into an error that names the file.

    Raises:
        ValueError: Reading failed inside the block.
    """
    try:
        yield
    except (
        *(OSError, RuntimeError, KeyError, TypeError, IndexError),
        *(MemoryError, OverflowError, SystemError),
    ) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(
            f"{path} is cut short or damaged ({error}); copy or make it again"
        ) from error


def child(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """Return what stands under a name, if it is stored in this file.

    Raises:
        ValueError: There is nothing, or only a link to elsewhere.
    """
    link = group.get(name, getlink=True)
    if link is None:
        names = sorted(itertools.islice(group, NAMES_SHOWN))
        raise ValueError(f"{place(group)} lacks {name!r}; it has {names}")
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{place(group)}: {name!r} is a link to elsewhere, not read")
    return group[name]


def groups(file: h5py.File) -> Iterator[tuple[str, h5py.Group]]:
    """Yield the name and the group of everything at the top of a file.

    Raises:
        ValueError: Something is not a group.
    """
    for name in file:
        group = child(file, name)
        if not isinstance(group, h5py.Group):
            raise ValueError(f"{place(file)}: {name!r} is not a group")
        yield name, group


def walk(
    group: h5py.Group, wanted: Callable[[h5py.Group], bool]
) -> Iterator[h5py.Group]:
    """Yield the groups below one that are wanted, each once, in the order of names.

    Raises:
        ValueError: Groups lie deeper in each other than ``MAX_DEPTH``.
    """
    yield from _walk(group, wanted, 0, set())


def _walk(
    group: h5py.Group,
    wanted: Callable[[h5py.Group], bool],
    depth: int,
    seen: set[int],
) -> Iterator[h5py.Group]:
    if depth > MAX_DEPTH:
        raise ValueError(f"{place(group)}: more than {MAX_DEPTH} groups in each other")
    for name in group:
        below = child(group, name)
        if not isinstance(below, h5py.Group):
            continue
        # Links can lead in circles, or to one group by thousands of ways.
        address = h5py.h5o.get_info(below.id).addr
        if address in seen:
            continue
        seen.add(address)
        if wanted(below):
            yield below
        else:
            yield from _walk(below, wanted, depth + 1, seen)


def require_room(
    path: Path, groups: Iterable[h5py.Group], names: Iterable[str]
) -> None:
    """Refuse a file whose arrays, read as float64, do not fit into the memory.

    Args:
        path: The file, for the message.
        groups: Groups that are to be read.
        names: Arrays of each that are to be read; those that it lacks do not count.

    Raises:
        ValueError: Names what is needed and what there is.
    """
    names = list(names)
    numbers = 0
    for group in groups:
        for name in names:
            if name in group:
                numbers += math.prod(array(group, name, "biufSO").shape)
    needed, available = 8.0 * numbers / GB, available_memory()
    if needed > SHARE_OF_MEMORY * available:
        raise ValueError(
            f"{path} declares arrays of {needed:.3g} GB, more than the "
            f"{available:.3g} GB of memory that are left hold"
        )


def attribute(file: h5py.File, name: str) -> str | int | None:
    """Return an attribute of a file that is a text or an integer; None for all else."""
    value = file.attrs.get(name)
    if isinstance(value, np.integer):
        return int(value)
    return value if isinstance(value, str | int) else None


def text_attribute(file: h5py.File, name: str) -> str:
    """Return an attribute of a file that is text.

    Raises:
        ValueError: It is missing or not text.
    """
    value = file.attrs.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{place(file)} lacks the text attribute {name!r}")
    return value


def stated_unit(dataset: h5py.Dataset) -> str | None:
    """Return the unit that an array's attribute names; None if there is none."""
    for name in ("units", "unit"):
        value = dataset.attrs.get(name)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, str):
            return value
    return None


def array(group: h5py.Group, name: str, kinds: str = "f") -> h5py.Dataset:
    """Return an array of a file, not yet read.

    Args:
        group: Where it is.
        name: Its name.
        kinds: Accepted NumPy kinds, such as "f" or "iu".

    Raises:
        ValueError: It is missing, of another type, stored elsewhere, or larger than the
            file can hold.
    """
    dataset = child(group, name)
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise ValueError(f"{place(group)}: {name!r} is not an array")
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{place(group)}: {name!r} is kept in another file")
    if dataset.dtype.kind not in kinds:
        raise ValueError(f"{place(group)}: {name!r} has type {dataset.dtype}")
    declared = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    most = MAX_COMPRESSION_LARGE if declared > LARGE_ARRAY else MAX_COMPRESSION
    if declared > most * stored + SMALL_ARRAY:
        raise ValueError(
            f"{place(group)}: {name!r} declares {declared} bytes but stores {stored}"
        )
    return dataset


def read_array(group: h5py.Group, name: str, kinds: str = "f") -> np.ndarray:
    """Return an array of numbers; arguments and errors as :func:`array`."""
    return np.asarray(array(group, name, kinds)[()])


def read_texts(group: h5py.Group, name: str) -> list[str]:
    """Return a list of strings.

    Raises:
        ValueError: As :func:`array`.
    """
    dataset = array(group, name, kinds="biufSO")
    if h5py.check_string_dtype(dataset.dtype) is None or dataset.ndim != 1:
        raise ValueError(f"{place(group)}: {name!r} is not a list of strings")
    return [str(text) for text in dataset.asstr()[:]]


class FileRows:
    """An array that stays in its file and is read by frame, in our units.

    Args:
        dataset: The array; its file must stay open.
        factor: From the file's unit to ours.
        rows: Frames of the array that these are; None if they are all.
        atoms: Atoms of each frame that these are; None if they are all.
    """

    def __init__(
        self,
        dataset: h5py.Dataset,
        factor: float,
        rows: np.ndarray | None = None,
        atoms: np.ndarray | None = None,
    ) -> None:
        self.dataset = dataset
        self.factor = factor
        self.rows = rows
        self.atoms = atoms
        n_rows, n_atoms, *rest = dataset.shape
        self.shape: tuple[int, ...] = (
            n_rows if rows is None else len(rows),
            n_atoms if atoms is None else len(atoms),
            *rest,
        )

    def __getitem__(self, index: Any) -> np.ndarray:
        """Return the frames of an index, a slice, or any indices [n]."""
        if self.rows is not None:
            index = self.rows[index]
        if isinstance(index, np.ndarray):
            # HDF5 wants increasing indices, each once.
            rows, back = np.unique(index, return_inverse=True)
            values = self.dataset[rows][back]
        else:
            values = self.dataset[index]
        if self.atoms is not None:
            values = values[..., self.atoms, :]
        return np.asarray(values, dtype=np.float64) * self.factor


def place(group: h5py.Group) -> str:
    """Return the file and the group as text for a message."""
    return f"{group.file.filename}, {group.name}"
