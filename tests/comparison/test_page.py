"""The page of a comparison: one file, everything in it, and names shown as they are."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fuse4seg.comparison.page import write_page
from fuse4seg.comparison.report import conditions_of, format_markdown
from tests.comparison.test_report import OURS, PEER, TestReading, result

PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
EVIL = "<script>alert(1)</script>"


class Reader(HTMLParser):
    """Headings, cells, pictures and scripts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: dict[str, list[str]] = {}
        self.pictures: list[dict[str, str | None]] = []
        self._within: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._within = tag
        self.found.setdefault(tag, []).append("")
        if tag == "img":
            self.pictures.append(dict(attributes))

    def handle_endtag(self, _tag: str) -> None:
        self._within = None

    def handle_data(self, data: str) -> None:
        if self._within is not None:
            self.found[self._within][-1] += data


@pytest.fixture
def comparison() -> dict[str, Any]:
    named = result(EVIL, {f"case{index}": 0.4 for index in range(8)})
    return {**TestReading.COMPARISON, "results": [*PEER, *OURS, named],
            "picture": {"case": "case0", "slice": 3, "fold": 0}}


class TestPage:
    def test_holds_plots_tables_picture_and_reading(self, comparison: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "case.png").write_bytes(PIXEL)
        written = write_page(comparison, tmp_path)
        assert written == tmp_path / "report.html"
        reader = Reader(written.read_text())
        assert reader.found["h2"][:8] == ["Which segments best?", "Which can be told apart from all channels?",
                                          "How fast do they learn?", "What does a row cost?", "Segmentation", "Fused images",
                                          "One case", "Reading"]
        assert reader.found["p"][0] == conditions_of(comparison)
        drawn = [picture["src"].partition(",") for picture in reader.pictures]
        assert [start for start, _, _ in drawn] == [*["data:image/svg+xml;base64"] * 4, "data:image/png;base64"]
        assert all(ElementTree.fromstring(base64.b64decode(content)).tag.endswith("svg") for _, _, content in drawn[:4])
        assert base64.b64decode(drawn[4][2]) == PIXEL
        assert reader.pictures[0]["alt"].startswith("mean Dice: stacked 0.600, fuse4seg 0.735")
        # Every cell of the Markdown page's tables is there.
        cells = [cell.strip() for line in format_markdown(comparison).splitlines() if line.startswith("| ")
                 for cell in line.strip("| ").split(" | ") if "---" not in cell]
        shown = reader.found["th"] + reader.found["td"]
        assert [cell for cell in cells if cell not in shown] == []
        assert any(line.startswith("Dice of fuse4seg less stacked") for line in reader.found["li"])
        assert "f4s_compare 990 2d --seeds 1" in reader.found["pre"][0]

    def test_runs_nothing_and_loads_nothing(self, comparison: dict[str, Any], tmp_path: Path) -> None:
        page = write_page(comparison, tmp_path).read_text()
        assert "script" not in Reader(page).found
        assert EVIL in Reader(page).found["th"]
        assert not re.search(r"(src|href)=\"(?!data:|#)", page)

    def test_goes_without_the_picture_of_a_case(self, comparison: dict[str, Any], tmp_path: Path) -> None:
        assert len(Reader(write_page(comparison, tmp_path).read_text()).pictures) == 4
