"""Report pages, and a browser that opens them without a window."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

needs_browser = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="needs a browser"
)
PLAY = "<script>document.querySelector('.viewer button').click();</script></body>"
MOST_BYTES = 3_000_000


def read_page(path: Path) -> str:
    """Return the text of a page that is small and fetches nothing."""
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!#|data:)", text)
    assert not re.search(r"url\(\s*[\"']?(?!#|data:)", text)
    assert "default-src 'none'" in text
    assert len(text) < MOST_BYTES
    return text


def opened(path: Path, folder: Path, play: bool = False) -> str:
    """Return what a browser makes of a page in half a second of its time.

    Args:
        path: The page.
        folder: Folder for files of the browser.
        play: Press the button of the first viewer.
    """
    text = path.read_text(encoding="utf-8")
    copy = folder / "opened.html"
    copy.write_text(text.replace("</body>", PLAY) if play else text, encoding="utf-8")
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'browser'}",
        "--virtual-time-budget=500",
        "--dump-dom",
        copy.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.stdout


def shown_label(document: str) -> str:
    """Return the label of the frame that the first viewer shows."""
    found = re.search(r"<output>(.*?)</output>", document)
    assert found is not None
    return found.group(1)
