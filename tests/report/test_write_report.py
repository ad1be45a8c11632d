"""A report as a whole: its files, what they say, and that a bad case ends no report."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fuse4seg.errors import EmptyFolderError, FaultyCasesError, FolderNotFoundError, OptionError
from fuse4seg.own_outputs import RECORD
from fuse4seg.report import write_report as module
from fuse4seg.report.page import viewer_script
from fuse4seg.report.write_report import Wish, write_report

NO_VIEWER = "NiiVue was not fetched: python -m fuse4seg.report.fetch_viewer"
needs_viewer = pytest.mark.skipif(viewer_script() is None, reason=NO_VIEWER)


def text_of(page: Path) -> str:
    """Without elements, on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page.read_text())).split())


def order(page: Path) -> list[str]:
    return re.findall(r'<li class="case" id="row-[^"]*" data-case="([^"]*)"', page.read_text())


class TestWriteReport:
    @needs_viewer
    def test_writes_a_list_a_page_of_each_case_and_what_they_load(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a", "b")
        page = write_report(made.folder)
        assert page == made.folder / "report" / "index.html"
        written = {str(path.relative_to(page.parent)) for path in page.parent.rglob("*") if path.is_file()} - {RECORD}
        pictures = {f"pictures/{name}_{plane}.png" for name in "ab" for plane in ("axial", "coronal", "sagittal")}
        beside = {f"cases/{name}.html" for name in "ab"} | {f"data/{name}.js" for name in "ab"}
        assert written == {"index.html", "LICENSE.niivue.txt", *beside, *pictures,
                           *(f"static/{name}" for name in ("report.css", "ratings.js", "index.js", "viewer.js", "niivue.umd.js"))}
        for name in ("index.html", "cases/a.html"):
            linked = re.findall(r'(?:src|href)="([^"#]+)"', (page.parent / name).read_text())
            assert len(linked) > 5
            assert [target for target in linked if not (page.parent / name).parent.joinpath(target).is_file()] == []

    def test_numbers_are_those_of_the_images(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a")
        said = text_of(write_report(made.folder, wish=Wish(labels=made.labels, viewer=False)))
        rows = []
        for name, value in (("oedema", 1), ("core", 2)):
            predicted, true = made.segmented["a"] == value, made.true["a"] == value
            dice = 2 * (predicted & true).sum() / (predicted.sum() + true.sum())
            rows.append(f"{name} {predicted.sum() * 6 / 1000:.1f} {dice:.3f} 1.0")
        assert "class ml Dice HD95, mm " + " ".join(rows) in said
        assert "Fuse4SegTrainer__Fuse4SegPlans__2d" in said

    def test_the_most_doubtful_comes_first_and_the_unknown_last(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a", "b", "c")
        made.told("b", doubt={"score": 0.2})
        made.told("c", doubt={"score": 0.9})
        assert order(write_report(made.folder, wish=Wish(viewer=False))) == ["c", "b", "a"]

    def test_a_failed_and_an_unreadable_case_are_named_and_the_others_shown(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a", "broken")
        made.told("lost", status="failed", reason="case lost: no FLAIR image")
        (made.folder / "broken.nii.gz").write_bytes(b"no image")
        with pytest.raises(FaultyCasesError, match="broken.nii.gz cannot be read"):
            write_report(made.folder, wish=Wish(viewer=False))
        page = made.folder / "report" / "index.html"
        assert order(page) == ["a"]
        assert "1 case shown, 2 that could not be." in text_of(page)
        assert "case lost: no FLAIR image" in text_of(page)

    def test_shows_results_without_sources_that_have_gone(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a")
        made.images.rename(made.images.with_name("gone"))
        page = write_report(made.folder, wish=Wish(viewer=False))
        assert "the sources are not shown, as their folder has gone" in text_of(page)
        assert 'from left to right: fused, segmentation"' in page.read_text()

    def test_repeats_itself_bit_for_bit(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a", "b")
        found = []
        for place in ("one", "two"):
            page = write_report(made.folder, made.folder.parent / place)
            found.append({path.relative_to(page.parent): path.read_bytes() for path in page.parent.rglob("*") if path.is_file()})
        assert found[0] == found[1]

    @needs_viewer
    def test_a_single_file_needs_no_other(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a", "b")
        page = write_report(made.folder, wish=Wish(single_file=True))
        assert {path.name for path in page.parent.iterdir()} == {"index.html", RECORD}
        content = page.read_text()
        assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', content) == []
        assert content.count('src="data:image/png;base64,') == 12
        layers = json.loads(re.search(r'<script type="application/json" id="layers-case-0">(.*?)</script>', content).group(1))
        assert base64.b64decode(layers["layers"][0]["data"])[:2] == b"\x1f\x8b"

    def test_says_on_the_page_and_in_a_line_that_the_viewer_is_missing(self, make_prediction: Callable[..., Any],
            monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        monkeypatch.setattr(module, "viewer_script", lambda: None)
        made = make_prediction("a")
        page = write_report(made.folder)
        assert "python -m fuse4seg.report.fetch_viewer" in caplog.text
        assert not (page.parent / "data").exists()
        case = (page.parent / "cases" / "a.html").read_text()
        assert "niivue.umd.js" not in case
        assert "a_axial.png" in case

    def test_merges_ratings_and_shows_agreement(self, make_prediction: Callable[..., Any], tmp_path: Path) -> None:
        made, files = make_prediction("a", "b"), []
        for rater, given in (("Ann", ("pass", "fail")), ("Bob", ("pass", "pass"))):
            files.append(tmp_path / f"{rater}.json")
            rows = {case: {"rating": rating, "note": "", "time": "t"} for case, rating in zip("ab", given, strict=True)}
            files[-1].write_text(json.dumps({"report": "x", "rater": rater, "ratings": rows}))
        page = write_report(made.folder, wish=Wish(ratings=files, viewer=False))
        assert "Ann and Bob 2 0.50 0.00" in text_of(page)
        assert len((page.parent / "ratings.csv").read_text().splitlines()) == 5

    def test_a_hostile_name_is_text(self, make_prediction: Callable[..., Any]) -> None:
        name = """<script>alert(1)<|script>"'&<img src=x onerror=alert(1)>é""".replace("|", "\\")
        made = make_prediction(name, "b")
        page = write_report(made.folder)
        for written in [page, *(page.parent / "cases").iterdir(), *(page.parent / "data").glob("*")]:
            assert "<script>alert" not in written.read_text()
            assert "<img src=x" not in written.read_text()
        assert name in html.unescape(page.read_text())
        assert all(path.name.isascii() for path in (page.parent / "cases").iterdir())

    def test_replaces_its_own_files_and_nobody_elses(self, make_prediction: Callable[..., Any]) -> None:
        made = make_prediction("a")
        write_report(made.folder, wish=Wish(viewer=False))
        write_report(made.folder, wish=Wish(viewer=False))
        place = made.folder.parent / "mine"
        place.mkdir()
        (place / "index.html").write_text("mine")
        with pytest.raises(OptionError, match="would be replaced"):
            write_report(made.folder, place, wish=Wish(viewer=False))
        with pytest.raises(OptionError, match="holds the input"):
            write_report(made.folder, made.folder, wish=Wish(viewer=False))
        assert (place / "index.html").read_text() == "mine"

    def test_refuses_labels_of_no_case(self, make_prediction: Callable[..., Any], tmp_path: Path) -> None:
        made = make_prediction("a")
        (tmp_path / "empty").mkdir()
        with pytest.raises(EmptyFolderError):
            write_report(made.folder, wish=Wish(labels=tmp_path / "empty"))
        with pytest.raises(FolderNotFoundError):
            write_report(made.folder, wish=Wish(labels=tmp_path / "nowhere"))
        assert not (made.folder / "report").exists()
