"""Pages outside docs/ in the site: the README as its start, and what the pages link to.

A hook of MkDocs.  The pages link to each other by their paths in the repository, so
that links work there too; here they become links of the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
START = "README.md"
PAGES = (START, "CONTRIBUTING.md", "CHANGELOG.md")  # others by links
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def linked(page: str, link: str) -> str:
    """Return the path in the repository that a link of a page leads to.

    Args:
        page: Path of the page in the repository.
        link: Relative path, of a file or of a folder, whose README is meant.
    """
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    return f"{path}/README.md" if (ROOT / path).is_dir() else path


def in_site(path: str) -> str:
    """Return where a file of the repository is in the site."""
    return "index.md" if path == START else path.removeprefix("docs/")


def on_files(files: Files, config: Any) -> Files:
    """Add the files outside docs/ that pages link to, directly or by others."""
    pages = [*PAGES, *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    seen = set(pages)
    while pages:
        page = pages.pop()
        if not page.startswith("docs/"):
            content = (ROOT / page).read_bytes()
            files.append(File.generated(config, in_site(page), content=content))
        if page.endswith(".md"):
            text = (ROOT / page).read_text(encoding="utf-8")
            targets = {linked(page, link) for link, _ in LINK.findall(text)} - seen
            found = {path for path in targets if (ROOT / path).is_file()}
            seen |= found
            pages += found
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return a page with links of the repository as links of the site."""
    here = page.file.src_uri
    source = START if here == "index.md" else here
    if page.file.generated_by is None:
        source = f"docs/{here}"

    def replaced(match: re.Match[str]) -> str:
        path, folder = linked(source, match[1]), match[1].endswith("/")
        if folder and not (ROOT / path).is_file():
            return "]"  # a folder without a page; its name stays as text
        link = posixpath.relpath(in_site(path), posixpath.dirname(here) or ".")
        return f"]({link}{match[2] or ''})"

    return LINK.sub(replaced, markdown)
