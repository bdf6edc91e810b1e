"""What a worker says to the script that started it: one JSON object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any


def answers_on_stdout() -> Callable[[dict[str, Any]], None]:
    """Return what writes an answer; everything else on stdout goes to stderr now.

    Packages print to stdout too.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(values: dict[str, Any]) -> None:
        print(json.dumps(values), file=answers, flush=True)

    return answer
