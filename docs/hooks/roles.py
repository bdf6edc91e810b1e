"""Roles of docstrings, such as :meth:`run`, which Markdown does not know.

A hook of MkDocs.  The name stays, as code; of a name that starts with ~ the last part.
"""

from __future__ import annotations

import re
from typing import Any

ROLE = re.compile(r":(?:attr|class|func|meth|mod):<code>(~[\w.]*\.)?([\w.]+)</code>")


def on_page_content(content: str, **_: Any) -> str:
    """Return the HTML of a page without roles."""
    return ROLE.sub(r"<code>\2</code>", content)
