"""A comparison as a page: one file that any browser shows, with the plots and tables of its report."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from fuse4seg import __version__
from fuse4seg.comparison.picture import PICTURE
from fuse4seg.comparison.plots import Plot, cost_plot, curve_plot, dice_plot, difference_plot, readability_plot
from fuse4seg.comparison.report import conditions_of, sections
from fuse4seg.report.page import Pages, write_text

PAGE = "report.html"


def write_page(comparison: dict[str, Any], output: Path) -> Path:
    """Write report.html into the folder of a comparison, with everything that it shows in it; returns it.

    Args:
        comparison: What comparison.json holds.
        output: The folder, with the case's picture.
    """
    results = comparison["results"]
    plots = [plot for plot in (dice_plot(results), difference_plot(results), readability_plot(results, comparison["trivial"]),
                               curve_plot(results), cost_plot(results)) if plot]
    picture = output / PICTURE
    case = _url(picture.read_bytes(), "png") if picture.is_file() else None
    shown = [{**section._asdict(), "picture": section.picture and case} for section in sections(comparison)]
    identity = [comparison["dataset"], comparison["configuration"], sorted({result["name"] for result in results})]
    pages = Pages(single=True, nonce=hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24])
    report = {"id": "comparison", "nonce": pages.nonce, "version": __version__, "single": True, "key_help": [],
              "title": f"Comparison: {comparison['dataset']}, {comparison['configuration']}",
              "summary": conditions_of(comparison), "commands": [call["command"] for call in comparison["calls"]]}
    return write_text(output / PAGE, pages.render("comparison.html", report=report, plots=[_shown(plot) for plot in plots],
                                                  sections=shown))


def _shown(plot: Plot) -> dict[str, str]:
    return {"question": plot.question, "words": plot.words, "src": _url(plot.svg.encode(), "svg+xml")}


def _url(content: bytes, kind: str) -> str:
    """A picture as a data URL."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
