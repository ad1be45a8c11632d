"""Pages: links lead somewhere, commands are understood, lines are of one width, and the site can be built."""

from __future__ import annotations

import pydoc
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuse4seg.cli.reference import parser_of
from fuse4seg.recipes.reading import changed, read_recipe
from fuse4seg.recipes.recipe import SECTIONS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "documentation"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(FOLDER.rglob("*.md"))]
WIDTH = 120
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """Text without code: fenced, indented, and within a line."""
    text = re.sub(r"^(    |\t).*$", "", FENCE.sub("", page.read_text()), flags=re.MULTILINE)
    return re.sub(r"`[^`]*`", "", text)


def anchors(page: Path) -> set[str]:
    """What GitHub and MkDocs both call a page's headings; a heading that they name differently has no anchor here."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {name.replace(" ", "-") for name in plain} & {re.sub(r"[-\s]+", "-", name) for name in plain}


def links() -> Iterator[tuple[Path, str]]:
    """Every page with each of its links that stay in the repository."""
    for page in PAGES:
        yield from ((page, target) for target in LINK.findall(prose(page)) if not re.match(r"https?://", target))


def test_every_link_leads_to_a_file_and_a_section_that_are_there() -> None:
    dead, seen = [], 0
    for page, target in links():
        seen += 1
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(f"{page.relative_to(ROOT)}: {target}")
    assert seen > 80
    assert dead == []


def test_pages_of_the_site_link_to_nothing_outside_of_it() -> None:
    assert [f"{page}: {target}" for page, target in links() if FOLDER in page.parents
            and not (page.parent / target.partition("#")[0]).resolve().is_relative_to(FOLDER)] == []


def test_the_index_and_the_site_name_every_page() -> None:
    pages = {str(page.relative_to(FOLDER)) for page in PAGES if FOLDER in page.parents} - {"README.md"}
    assert {target.partition("#")[0] for page, target in links() if page == FOLDER / "README.md"} >= pages
    assert set(re.findall(r"[\w-]+/[\w-]+\.md", (ROOT / "mkdocs.yml").read_text())) == pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_are_of_one_width(page: Path) -> None:
    lines = FENCE.sub("", page.read_text()).splitlines()
    assert [line for line in lines if len(line) > WIDTH and not line.startswith(("|", "    ", "<!--"))] == []


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command of ours in a page's blocks of code, in words, without what a shell adds."""
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for line in re.findall(r"^ {4}(?:\w+=\S+ )*(f4s_\w+ .+)$", text, re.MULTILINE):
            words = shlex.split(line.partition("&")[0], comments=True)
            yield words[0], words[1:]


def test_every_command_that_a_page_shows_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    wrong, seen = [], 0
    for name, words in commands():
        seen += 1
        try:
            options = parser_of(name).parse_args(words)
        except SystemExit:
            wrong.append(f"{name} {shlex.join(words)}: {capsys.readouterr().err.splitlines()[-1]}")
            continue
        given = [*getattr(options, "changes", []), *(change for variant in getattr(options, "variant", [])
                                                     for change in variant.partition("=")[2].split())]
        recipe = "fusion_alone" if "510" in words else "fuse4seg"
        changed(read_recipe(recipe), given, in_training=name in ("f4s_train", "f4s_pretrain"))
    assert seen > 60
    assert wrong == []


def test_every_change_of_a_recipe_that_a_page_names_is_one() -> None:
    # The list of recipes is made from them, entry by entry.
    pages = "".join(page.read_text().partition("\n## Change single entries\n")[2] if page.name == "recipes.md"
                    else page.read_text() for page in PAGES)
    named = [[word for word in changes.split() if word.split(".")[0] in SECTIONS and not word.endswith("=N")]
             for changes in re.findall(r"`((?:\w+\.\w+=[^\s`]* ?)+)`", pages)]
    assert sum(map(len, named)) > 15
    for words in named:
        changed(read_recipe("fuse4seg"), words)


def test_every_name_in_python_that_a_page_gives_is_there() -> None:
    named = set(re.findall(r"\bfuse4seg(?:\.[A-Za-z]\w*)+", "".join(page.read_text() for page in PAGES)))
    assert len(named) > 4
    assert [name for name in sorted(named) if pydoc.locate(name) is None] == []


def test_the_site_can_be_built(tmp_path: Path) -> None:
    for needed in ("material", "latex2mathml"):
        pytest.importorskip(needed, reason="the site needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    method = (tmp_path / "explanation" / "method.html").read_text()
    assert method.count("<math") > 40
    assert [formula for formula in re.findall(r"<math.*?</math>", method, re.DOTALL) if "\\" in formula] == []
    assert "$" not in re.sub(r"<(code|script)\b.*?</\1>", "", method, flags=re.DOTALL)
