"""One measured number and the range it must lie in."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

Status = Literal["pass", "fail", "not run"]


@dataclasses.dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes:
        group: What kind of check it is, such as "equivariance".
        name: What was measured.
        measured: The number; None if the check cannot run here, as ``note`` explains.
        unit: Its unit, empty for a ratio.
        low: Smallest value that passes; None if there is none.
        high: Largest value that passes; None if there is none.
        note: What a reader needs beside the number.

    A check without limits is information: it passes unless the number is not finite.
    """

    group: str
    name: str
    measured: float | None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def status(self) -> Status:
        """Whether the number is finite and within its limits."""
        if self.measured is None:
            return "not run"
        inside = (
            math.isfinite(self.measured)
            and (self.low is None or self.measured >= self.low)
            and (self.high is None or self.measured <= self.high)
        )
        return "pass" if inside else "fail"

    @property
    def limit(self) -> str:
        """The limits as text."""
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        if self.high is not None:
            return f"<= {self.high:g}"
        if self.low is not None:
            return f">= {self.low:g}"
        return "none"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; a number that is not finite becomes text for JSON."""
        values = dataclasses.asdict(self)
        if self.measured is not None and not math.isfinite(self.measured):
            values["measured"] = str(self.measured)
        return {**values, "status": self.status}
