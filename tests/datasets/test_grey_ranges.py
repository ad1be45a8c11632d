"""Ranges of folders: given, shared, measured; and images that hardly use theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as Picture

from fuse4seg.datasets.grey_images import UNIT_RANGE, GreyImage, GreyRange, read_grey_image
from fuse4seg.datasets.grey_ranges import fused_range, is_narrow, shown_range, source_ranges, warn_of_narrow
from fuse4seg.datasets.sources import Sources
from fuse4seg.errors import OptionError

RAMP = np.linspace(0, 1, 4096).reshape(4, 32, 32)


def save(path: Path, voxels: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path))
    return path


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """T1 to 1800 and T2 to 900, both int16."""
    files = tuple(save(tmp_path / name / "a.nii.gz", np.int16(RAMP * top)) for name, top in (("T1", 1800), ("T2", 900)))
    return Sources(("T1", "T2"), {"a": files})


class TestRanges:
    def test_are_measured_for_each_folder(self, sources: Sources) -> None:
        for found, top in zip(source_ranges(sources, None), (1800, 900), strict=True):
            tissue = np.int16(RAMP * top)[np.int16(RAMP * top) > 0]
            low, high = np.percentile(tissue, [0.5, 99.9])
            assert (found.low, found.high, found.clips) == (pytest.approx(low), pytest.approx(high), True)

    def test_are_measured_over_the_others_where_one_breaks(self, sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
        def read(path: Path, levels: None) -> GreyImage:
            return read_grey_image(path, levels) if path.name == "a.nii.gz" else [][0]

        expected = source_ranges(sources, None)
        more = {"b": tuple(path.with_name("b.nii.gz") for path in sources.images["a"])}
        monkeypatch.setattr("fuse4seg.datasets.grey_ranges.read_grey_image", read)
        monkeypatch.setattr("fuse4seg.datasets.grey_ranges.VOXELS_PER_FOLDER", 4_000_000)
        assert source_ranges(Sources(sources.names, {**sources.images, **more}), None) == expected

    def test_are_those_given_in_their_order(self, sources: Sources) -> None:
        one, two, three = GreyRange(0, 1), GreyRange(0, 2), GreyRange(0, 3)
        assert source_ranges(sources, [one]) == [one, one]
        assert source_ranges(sources, [one, two]) == [one, two]
        assert source_ranges(sources, [one, two, three], further=1) == [one, two]
        assert fused_range([], sources, [one, two, three]) == three
        for given, further in (([one] * 3, 0), ([one] * 4, 1)):
            with pytest.raises(OptionError, match="T1, T2"):
                source_ranges(sources, given, further=further)

    def test_of_fused_images_is_0_to_1_where_they_lie_in_it_else_that_of_the_sources(self, sources: Sources,
                                                                                      tmp_path: Path) -> None:
        raw = GreyRange(0, 1800)
        assert fused_range([save(tmp_path / "unit.nii.gz", np.float32(RAMP))], sources, [raw]) == UNIT_RANGE
        assert fused_range([save(tmp_path / "raw.nii.gz", np.int16(RAMP * 1000))], sources, [raw]) == raw
        assert fused_range([save(tmp_path / "wide.nii.gz", np.int16(RAMP * 2000))], sources, [raw]).clips

    def test_pass_over_8_bits_nan_and_what_cannot_be_read(self, tmp_path: Path) -> None:
        Picture.fromarray(np.uint8(RAMP[0] * 255)).save(tmp_path / "a.png")
        (tmp_path / "b.nii.gz").write_bytes(b"no image")
        files = [tmp_path / "a.png", tmp_path / "b.nii.gz", save(tmp_path / "c.nii.gz", np.uint8(RAMP * 255)),
                 save(tmp_path / "d.nii.gz", np.full((2, 4, 4), np.nan, np.float32))]
        assert shown_range(files, "T1") == UNIT_RANGE

    def test_that_are_measured_clip_and_those_given_refuse(self, sources: Sources) -> None:
        path, _ = sources.images["a"]
        levels = read_grey_image(path, source_ranges(sources, None)[0]).levels
        assert (levels.min(), levels.max()) == (0, 255)


def test_narrow_images_are_named_by_folder(sources: Sources, caplog: pytest.LogCaptureFixture) -> None:
    wide, narrow = (read_grey_image(path, GreyRange(0, 9100)) for path in sources.images["a"])
    assert (is_narrow(wide), is_narrow(narrow)) == (False, True)
    warn_of_narrow([narrow.path])
    assert f"{narrow.path.parent}: 1 image(s) use less than a tenth" in caplog.text
