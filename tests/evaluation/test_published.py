"""Published rows: figures as their sources print them, and each with its source's conventions."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from fuse4seg.evaluation.published import METRICS, format_published, published_rows, published_sets


def row(name: str, title: str) -> list[float | None]:
    """Values of a row by METRICS."""
    (found,) = [found for found in published_rows(name) if found["row"] == title]
    return [found[metric] for metric in METRICS]


@pytest.mark.parametrize(("name", "ours", "cddfuse"), [
    ("harvard-mri-ct", [4.83, 76.19, 35.56, 2.2, 1.21, 0.49, 0.57], [4.88, 79.17, 38.14, 2.61, 1.41, 0.61, 0.68]),
    ("harvard-mri-pet", [4.45, 75.11, 29.2, 1.87, 1.68, 0.66, 0.65], [4.22, 70.73, 29.57, 2.03, 1.69, 0.71, 0.71]),
    ("harvard-mri-spect", [4.17, 62.61, 22.56, 1.87, 1.58, 0.68, 0.7], [3.9, 58.31, 20.87, 2.49, 1.35, 0.97, 0.78])])
def test_rows_of_the_paper_and_of_cddfuse_are_as_printed(name: str, ours: list[float], cddfuse: list[float]) -> None:
    assert row(name, "Fuse4Seg") == ours
    assert row(name, "CDDFuse, MIF weights") == cddfuse
    titles = [found["row"] for found in published_rows(name) if found["source"] == "paper"]
    assert titles == ["DIDFuse", "U2Fusion", "RFN-Nest", "DDcGAN", "TarDAL", "CDDFuse", "DDFM", "Fuse4Seg"]


def test_every_value_lies_where_its_metric_can() -> None:
    ends = {"EN": (0, 8), "SD": (0, 127.5), "SF": (0, 361), "MI": (0, 11.1), "SCD": (-2, 2), "VIF": (0, 4), "Qabf": (0, 1)}
    rows = [found for name in published_sets() for found in published_rows(name)]
    assert len(rows) == 3 * (8 + 2 + 3) + 2
    for found in rows:
        assert list(found) == ["row", "source", *METRICS]
        for metric, (low, high) in ends.items():
            assert found[metric] is None and found["row"] == "copy of MRI" and metric == "SCD" or low < found[metric] < high


def test_every_row_has_a_source_that_says_its_conventions() -> None:
    sources = json.loads((files("fuse4seg.evaluation") / "published.json").read_text())["sources"]
    assert {found["source"] for name in published_sets() for found in published_rows(name)} == sources.keys()
    for said in sources.values():
        assert "nats" in said and "stretched" in said or "its conventions are not stated" in said


def test_the_table_says_pairs_sources_and_what_is_undefined() -> None:
    said, header, _, *lines = format_published("harvard-mri-ct", cases=16).splitlines()
    assert "harvard-mri-ct, on 21 pairs (yours: 16)" in said
    assert header.split() == ["published", *METRICS]
    table, notes = lines[:13], lines[13:]
    assert table[0].split() == ["DIDFuse", "[1]", "4.37", "58.34", "34.64", "1.71", "0.69", "0.41", "0.38"]
    assert table[-1].split() == ["copy", "of", "MRI", "[3]", "4.43", "53.12", "19.17", "3.83", "-", "1.02", "0.51"]
    assert [note[:3] for note in notes] == ["[1]", "[2]", "[3]"]
