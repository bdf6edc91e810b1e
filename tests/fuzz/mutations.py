"""Ways to damage a file.  Each takes and returns the bytes of a file."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

Mutation = Callable[[bytes, np.random.Generator], bytes]

EXTREME = (
    *(b"0", b"-1", b"1", b"2", b"7", b"1000000", b"1000000000", b"9" * 23),
    *(b"1e9", b"1e20", b"-1e12", b"1e308", b"nan", b"inf", b"-inf", b"0.5", b""),
    *(b"T", b"F", b"[1, 2]", b"{}", b"null", b"1_0", b"\xff", b"\xd9\xa3", b"'", b'"'),
)


def flip_bits(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip one to eight bits."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        if changed:
            changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def random_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """Replace some bytes in a row by random ones."""
    start = int(rng.integers(len(content) + 1))
    size = int(rng.integers(1, 65))
    return content[:start] + rng.bytes(size) + content[start + size :]


def high_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """Set some bytes in a row to 0xff or 0, as large or small integers have them."""
    start = int(rng.integers(len(content) + 1))
    size = int(rng.integers(1, 9))
    value = b"\xff" if rng.integers(2) else b"\x00"
    return content[:start] + value * size + content[start + size :]


def cut_short(content: bytes, rng: np.random.Generator) -> bytes:
    """Drop the end."""
    return content[: int(rng.integers(len(content) + 1))]


def drop_part(content: bytes, rng: np.random.Generator) -> bytes:
    """Drop a part in the middle."""
    start, end = np.sort(rng.integers(len(content) + 1, size=2))
    return content[:start] + content[min(end, start + 200) :]


def repeat_part(content: bytes, rng: np.random.Generator) -> bytes:
    """Write a part twice."""
    start, end = np.sort(rng.integers(len(content) + 1, size=2))
    return content[:end] + content[start:]


def change_number(content: bytes, rng: np.random.Generator) -> bytes:
    """Replace a number in the text."""
    places = [*re.finditer(rb"-?[0-9][0-9.e+-]*", content)]
    return _replaced(content, places, rng)


def change_word(content: bytes, rng: np.random.Generator) -> bytes:
    """Replace a word in the text."""
    places = [*re.finditer(rb"[^\s,:=\[\]{}]+", content)]
    return _replaced(content, places, rng)


def _replaced(
    content: bytes, places: list[re.Match[bytes]], rng: np.random.Generator
) -> bytes:
    if not places:
        return content
    place = places[int(rng.integers(len(places)))]
    value = EXTREME[int(rng.integers(len(EXTREME)))]
    return content[: place.start()] + value + content[place.end() :]


def blank_line(content: bytes, rng: np.random.Generator) -> bytes:
    """Put an empty line somewhere."""
    lines = content.split(b"\n")
    lines.insert(int(rng.integers(len(lines) + 1)), b" " * int(rng.integers(3)))
    return b"\n".join(lines)


def drop_line(content: bytes, rng: np.random.Generator) -> bytes:
    """Drop a line."""
    lines = content.split(b"\n")
    del lines[int(rng.integers(len(lines)))]
    return b"\n".join(lines)


def swap_lines(content: bytes, rng: np.random.Generator) -> bytes:
    """Swap two lines."""
    lines = content.split(b"\n")
    i, j = (int(k) for k in rng.integers(len(lines), size=2))
    lines[i], lines[j] = lines[j], lines[i]
    return b"\n".join(lines)


def nest(content: bytes, rng: np.random.Generator) -> bytes:
    """Nest brackets a thousand times in the place of a word."""
    places = [*re.finditer(rb"[^\s,:=\[\]{}]+", content)]
    if not places:
        return content
    place = places[int(rng.integers(len(places)))]
    deep = b"[" * 2000 + b"]" * 2000
    return content[: place.start()] + deep + content[place.end() :]


BINARY: tuple[Mutation, ...] = (
    *(flip_bits, flip_bits, random_bytes, high_bytes, high_bytes),
    *(cut_short, drop_part, repeat_part),
)
TEXT: tuple[Mutation, ...] = (
    *(change_number, change_number, change_word, blank_line, drop_line, swap_lines),
    *(nest, *BINARY),
)
# A reader that reads the file must find as many frames as before.
KEEPS_FRAMES = (change_number, blank_line, flip_bits)
