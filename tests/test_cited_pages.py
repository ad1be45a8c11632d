"""Docstrings and comments cite sections of our pages that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: A page with one section or several: method.md, "The network" and "Two stages".
CITATION = re.compile(r'(\w[\w-]*\.md)((?:(?:,|:| and)\s+"[^"]+")+)')


def sections() -> dict[str, set[str]]:
    """Headings by the name of their page."""
    return {page.name: set(re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE))
            for page in (ROOT / "documentation").rglob("*.md")}


def test_every_section_that_the_code_cites_is_there() -> None:
    known, cited = sections(), list[tuple[str, str]]()
    for path in sorted((ROOT / "fuse4seg").rglob("*.py")):
        text = re.sub(r"\n\s*(#:?)?", " ", path.read_text())
        cited += [(page, name) for page, names in CITATION.findall(text) for name in re.findall(r'"([^"]+)"', names)]
    assert len(cited) > 30
    assert [(page, name) for page, name in cited if name not in known.get(page, set())] == []
