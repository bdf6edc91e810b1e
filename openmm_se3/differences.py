"""In what a run differs from the one whose checkpoint it wants to go on from."""

from __future__ import annotations

from typing import Any

SHOWN_DIGITS = 12  # of a hash


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return one line for each value in which two nested dictionaries differ.

    A value that is absent is the same as None: older checkpoints lack newer settings.

    Args:
        before: What a checkpoint holds.
        now: The same of the run that is asked for.
    """
    lines = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += [f"{key}.{line}" for line in differences(old, new)]
        elif old != new:
            was, is_now = (_shown(key, value) for value in (old, new))
            lines.append(f"{key}: {was} in the checkpoint, {is_now} now")
    return lines


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "not given"
    return str(value)[: SHOWN_DIGITS if key.endswith("sha256") else None]
