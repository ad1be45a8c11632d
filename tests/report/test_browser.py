"""Reports in a real browser, opened from disk: nothing leaves the machine, no name runs, and keys do what they say."""

from __future__ import annotations

import csv
import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image as Picture

from fuse4seg.inference.panel import LABEL_COLOURS
from fuse4seg.report.page import viewer_script
from fuse4seg.report.write_report import Wish, write_report

playwright = pytest.importorskip("playwright.sync_api", reason="browser tests need the extra dev (playwright)")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NO_VIEWER = "NiiVue was not fetched: python -m fuse4seg.report.fetch_viewer"
pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome was found"),
              pytest.mark.skipif(viewer_script() is None, reason=NO_VIEWER)]

HOSTILE = "\"'><script>window.ran=1<\\script><img src=x onerror=window.ran=1>=é"
CELLS = "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
KNOWN_BY = "one => one.id || one.name || one.textContent"
#: Milliseconds; a busy machine draws volumes without a graphics card.
PATIENCE = 240_000


@pytest.fixture(scope="module")
def launch() -> Iterator[Callable[..., Any]]:
    """Function of Chromium's flags that starts it."""
    with playwright.sync_playwright() as started:
        yield lambda *flags: started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *flags])


@pytest.fixture(scope="module")
def browser(launch: Callable[..., Any]) -> Iterator[Any]:
    opened = launch("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def made(write_prediction: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A prediction of three cases, the second of which is the most doubtful, and its report in two forms."""
    made = write_prediction(tmp_path_factory.mktemp("browsed"), "a", "b", HOSTILE)
    made.told("b", doubt={"score": 0.9}, alignment={"T1": {"shift": [2, 0, 0], "turn": 0.0, "suspect": True}})
    made.told("lost", status="failed", reason="case lost: <b>gone</b>")
    write_report(made.folder, wish=Wish(labels=made.labels))
    write_report(made.folder, made.folder.parent / "single", wish=Wish(labels=made.labels, single_file=True))
    return made


class Visit:
    """A page with what it said and asked for.

    Attributes:
        page: Playwright's.
        errors: Of its console, and what nobody caught.
        asked: Addresses that it loaded.
    """

    def __init__(self, context: Any) -> None:
        self.page, self.errors, self.asked = context.new_page(), [], []
        self.page.set_default_timeout(PATIENCE)
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("dialog", lambda dialog: (self.errors.append(f"dialog {dialog.message}"), dialog.dismiss()))

    def open(self, path: Path, anchor: str = "") -> Any:
        self.page.goto(path.as_uri() + anchor)
        return self.page

    def open_viewer(self, path: Path, anchor: str = "") -> Any:
        self.open(path, anchor).wait_for_selector("#viewer[data-ready=yes]")
        return self.page

    def require_quiet(self, folder: Path) -> None:
        """Nothing went wrong, and nothing but the report's own files was asked for."""
        assert self.errors == []
        assert [url for url in self.asked if not url.startswith((folder.as_uri(), "data:", "blob:"))] == []


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    """A visit with storage of its own."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, accept_downloads=True)
    yield Visit(context)
    context.close()


def cases(page: Any) -> list[str]:
    """Names in the list, as shown."""
    return page.eval_on_selector_all("#cases > li:not([hidden])", "rows => rows.map(row => row.dataset.case)")


def wait_until(page: Any, condition: str) -> None:
    """Asked from outside: Playwright's own way to wait is code that the page's security policy forbids."""
    until = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < until, condition
        time.sleep(0.05)


def canvas_of(page: Any) -> np.ndarray:
    return np.asarray(Picture.open(io.BytesIO(page.locator("#canvas").screenshot())).convert("RGB")).astype(int)


def page_of(report: Path, name: str) -> Path:
    """A case's page."""
    return next(path for path in (report / "cases").iterdir() if path.name.startswith(name))


class TestIndex:
    def test_opens_from_disk_and_shows_the_most_doubtful_first(self, made: Any, visit: Visit) -> None:
        page = visit.open(made.folder / "report" / "index.html")
        assert cases(page) == ["b", HOSTILE, "a"]
        page.evaluate("document.querySelectorAll('img').forEach(image => { image.loading = 'eager'; })")
        wait_until(page, "[...document.images].every(image => image.complete)")
        assert page.evaluate("[...document.images].map(image => image.naturalWidth > 100).filter(Boolean).length") == 9
        assert "case lost: <b>gone</b>" in page.inner_text("#failed")
        visit.require_quiet(made.folder / "report")

    def test_searches_filters_and_sorts(self, made: Any, visit: Visit) -> None:
        page = visit.open(made.folder / "report" / "index.html")
        page.fill("#search", "<SCRIPT")
        assert cases(page) == [HOSTILE]
        page.fill("#search", "")
        page.select_option("#by-fault", "alignment")
        assert cases(page) == ["b"]
        page.select_option("#by-fault", "no")
        assert set(cases(page)) == {"a", HOSTILE}
        page.select_option("#by-fault", "")
        page.select_option("#sort", "ml")
        volumes = {name: (labels > 0).sum() for name, labels in made.segmented.items()}
        shown = [volumes[name] for name in cases(page)]
        assert shown == sorted(shown, reverse=True)
        page.select_option("#by-rating", "pass")
        assert cases(page) == []

    def test_is_used_by_keys_alone(self, made: Any, visit: Visit) -> None:
        page = visit.open(made.folder / "report" / "index.html")
        for key in ("j", "p", "j", "u"):
            page.keyboard.press(key)
        first, second, _ = cases(page)
        assert page.evaluate("document.activeElement.textContent") == second
        assert page.inner_text("#rated") == "2 of 3 rated"
        page.select_option("#by-rating", "unsure")
        assert cases(page) == [second]
        page.select_option("#by-rating", "")
        page.keyboard.press("Tab")
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("?")
        assert page.is_visible("#help")
        page.keyboard.press("Escape")
        assert not page.is_visible("#help")
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.id") == "search"
        page.keyboard.press("Escape")
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        page.wait_for_selector("article.case.shown")
        assert page.inner_text("h1") == first


class TestRatings:
    def test_survive_a_reload_are_the_same_on_all_pages_and_are_exported(self, made: Any, visit: Visit) -> None:
        page = visit.open(made.folder / "report" / "index.html")
        page.fill("#rater", "=Ann")
        page.check("li[data-case=a] input[value=fail]")
        page.fill("li[data-case=a] input[name=note]", 'cut "off", at the top')
        page.keyboard.press("Enter")
        page.reload()
        assert page.is_checked("li[data-case=a] input[value=fail]")
        visit.open(page_of(made.folder / "report", "a"))
        assert page.is_checked("article input[value=fail]")
        page.keyboard.press("p")
        assert page.is_checked("article input[value=pass]")
        with page.expect_download() as saved:
            page.click("#export-csv")
        rows = list(csv.DictReader(Path(saved.value.path()).read_text(encoding="utf-8").splitlines()))
        assert [(row["rater"], row["case"], row["rating"], row["note"]) for row in rows] == [
            ("'=Ann", "a", "pass", 'cut "off", at the top')]
        with page.expect_download() as saved:
            page.click("#export-json")
        content = json.loads(Path(saved.value.path()).read_text(encoding="utf-8"))
        assert (content["rater"], content["ratings"]["a"]["rating"]) == ("=Ann", "pass")
        assert content["report"] == page.evaluate("document.body.dataset.report")
        visit.require_quiet(made.folder / "report")

    @pytest.mark.parametrize("ending", ["csv", "json"])
    def test_can_be_carried_to_another_browser(self, made: Any, visit: Visit, browser: Any, tmp_path: Path, ending: str) -> None:
        page = visit.open(made.folder / "report" / "index.html")
        page.locator("#cases > li >> nth=0").locator("input[value=unsure]").check()
        page.evaluate("document.activeElement.blur()")
        name = cases(page)[0]
        with page.expect_download() as saved:
            page.click(f"#export-{ending}")
        saved.value.save_as(tmp_path / f"mine.{ending}")
        other = Visit(browser.new_context())
        there = other.open(made.folder / "report" / "index.html")
        there.set_input_files("#import", tmp_path / f"mine.{ending}")
        wait_until(there, "document.getElementById('said').textContent.startsWith('1 ratings taken')")
        assert there.eval_on_selector_all("li[data-rating=unsure]", "rows => rows.map(row => row.dataset.case)") == [name]
        other.page.context.close()

    def test_of_another_report_are_left_out(self, made: Any, visit: Visit, tmp_path: Path) -> None:
        (tmp_path / "other.json").write_text('{"report": "0", "ratings": {"a": {"rating": "pass", "time": "9"}}}')
        page = visit.open(made.folder / "report" / "index.html")
        page.set_input_files("#import", tmp_path / "other.json")
        wait_until(page, "document.getElementById('said').textContent.includes('1 left out')")
        assert page.inner_text("#rated") == "0 of 3 rated"


class TestViewer:
    def test_shows_fused_image_labels_and_values(self, made: Any, visit: Visit) -> None:
        page = visit.open_viewer(page_of(made.folder / "report", "a"))
        pixels = canvas_of(page)
        assert (pixels.max(axis=-1) > 40).mean() > 0.02
        page.keyboard.press("2")
        page.click("#outline")
        page.fill("#opacity", "100")
        page.click("#outline")
        painted = canvas_of(page)
        for colour in LABEL_COLOURS[:2]:
            assert (np.abs(painted - 255 * np.array(to_rgb(colour))).max(axis=-1) < 12).sum() > 20
        values = dict(page.eval_on_selector_all("#values tr", CELLS))
        x, y, z = map(int, values["voxel"].split())
        assert values["fused"] == " ".join(map(str, made.fused["a"][z, y, x]))
        assert float(values["T1"].lstrip("≤≥ ")) == pytest.approx(made.sources["a"][0][z, y, x], abs=4)
        names = ["-", "oedema", "core"]
        assert values["segmentation"] == names[made.segmented["a"][z, y, x]]
        assert values["reference"] == names[made.true["a"][z, y, x]]
        visit.require_quiet(made.folder / "report")

    def test_values_follow_the_crosshair(self, made: Any, visit: Visit) -> None:
        page = visit.open_viewer(page_of(made.folder / "report", "a"))
        before = [int(part) for part in page.inner_text("#values tr:first-child td").split()]
        page.focus("#canvas")
        for key in ("ArrowRight", "ArrowUp", "PageUp", "PageUp"):
            page.keyboard.press(key)
        x, y, z = (int(part) for part in page.inner_text("#values tr:first-child td").split())
        assert [x, y, z] == [before[0] + 1, before[1] - 1, before[2] + 2]
        assert page.inner_text("#values tr:nth-child(2) td") == " ".join(map(str, made.fused["a"][z, y, x]))

    def test_keys_flicker_toggle_and_change_the_view(self, made: Any, visit: Visit) -> None:
        page = visit.open_viewer(page_of(made.folder / "report", "a"))
        chosen = "document.querySelector('#bases input:checked').parentElement.textContent.trim()"
        first = canvas_of(page)
        page.keyboard.press("x")
        assert page.evaluate(chosen).startswith("T1")
        second = canvas_of(page)
        assert np.abs(first - second).max() > 30
        page.keyboard.press("x")
        assert page.evaluate(chosen).startswith("fused")
        assert np.abs(first - canvas_of(page)).max() < 8
        page.keyboard.press("s")
        assert not page.is_checked("input[name=segmentation]")
        assert np.abs(first - canvas_of(page)).max() > 30
        page.keyboard.press("v")
        assert page.input_value("#view") == "4"
        page.keyboard.press("[")
        page.wait_for_url(lambda url: not url.endswith("/a.html"))

    def test_shows_a_picture_as_one_plane(self, make_prediction: Callable[..., Any], visit: Visit) -> None:
        flat = make_prediction("a")
        flat.as_pictures("a")
        report = write_report(flat.folder).parent
        page = visit.open_viewer(page_of(report, "a"))
        assert page.is_disabled("#view")
        assert (canvas_of(page).max(axis=-1) > 40).mean() > 0.02
        page.focus("#canvas")
        page.keyboard.press("ArrowRight")
        x, y, z = (int(part) for part in page.inner_text("#values tr:first-child td").split())
        assert z == 0
        assert page.inner_text("#values tr:nth-child(2) td") == " ".join(map(str, flat.fused["a"][6, y, x]))
        visit.require_quiet(report)

    def test_all_in_one_file_moves_from_case_to_case(self, made: Any, visit: Visit) -> None:
        single = made.folder.parent / "single"
        page = visit.open(single / "index.html")
        assert page.is_visible("#index")
        page.click("li[data-case=b] a.open")
        page.wait_for_selector("article[data-case=b] #viewer[data-ready=yes]")
        assert not page.is_visible("#index")
        assert (canvas_of(page).max(axis=-1) > 40).mean() > 0.02
        page.keyboard.press("]")
        page.wait_for_selector("article:not([data-case=b]) #viewer[data-ready=yes]")
        assert page.evaluate("document.querySelectorAll('canvas').length") == 1
        page.keyboard.press("f")
        assert page.is_checked("article.shown input[value=fail]")
        page.go_back()
        page.go_back()
        page.wait_for_selector("#index", state="visible")
        assert page.inner_text("#rated") == "1 of 3 rated"
        visit.require_quiet(single)


class TestWithoutWebgl:
    def test_pictures_are_there_and_a_line_says_why(self, made: Any, launch: Callable[..., Any]) -> None:
        opened = launch("--disable-3d-apis")
        visit = Visit(opened.new_context())
        page = visit.open(page_of(made.folder / "report", "a"))
        page.wait_for_selector("#no-viewer", state="visible")
        assert "no WebGL2" in page.inner_text("#no-viewer")
        assert not page.is_visible("#canvas")
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 100)")
        visit.require_quiet(made.folder / "report")
        opened.close()


class TestHostileName:
    def test_is_shown_as_text_and_nothing_runs(self, made: Any, visit: Visit) -> None:
        report = made.folder / "report"
        page = visit.open(report / "index.html")
        assert HOSTILE in page.eval_on_selector_all("a.open", "links => links.map(link => link.textContent)")
        page.click("a.open >> nth=-1")
        page.wait_for_selector("article.case.shown")
        visit.open_viewer(next(path for path in (report / "cases").iterdir() if len(path.name) > 20))
        assert page.inner_text("h1") == HOSTILE
        page.keyboard.press("p")
        assert page.evaluate("[window.ran, document.body.querySelectorAll('img[onerror]').length]") == [None, 0]
        visit.require_quiet(report)


class TestAccessibility:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("name", ["index", "case"])
    def test_axe_has_no_serious_finding(self, made: Any, browser: Any, name: str, scheme: str) -> None:
        axe = pytest.importorskip("axe_core_python.sync_playwright", reason="axe-core needs the extra dev").Axe()
        visit = Visit(browser.new_context(color_scheme=scheme))
        if name == "index":
            page = visit.open(made.folder / "report" / "index.html")
        else:
            page = visit.open_viewer(page_of(made.folder / "report", "b"))
        found = axe.run(page)["violations"]
        assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found
                if one["impact"] in ("serious", "critical")] == []
        visit.page.context.close()

    def test_everything_on_the_pages_can_be_reached_by_tab(self, made: Any, visit: Visit) -> None:
        page = visit.open_viewer(page_of(made.folder / "report", "a"))
        controls = "#viewer button, #viewer select, #viewer input, #canvas, article input, header a"
        wanted = set(page.eval_on_selector_all(controls, f"all => all.filter(one => !one.disabled).map({KNOWN_BY})"))
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(page.evaluate(f"({KNOWN_BY})(document.activeElement)"))
        assert wanted - reached == set()
