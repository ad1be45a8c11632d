"""The picture of one case: which case, where each row lies in it, and in which greys and colours."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from PIL import Image as Picture

from fuse4seg.comparison.picture import (
    GAP,
    MOST,
    PICTURE,
    TITLE,
    arranged,
    first_seeds,
    pixels_of,
    telling_case,
    write_picture,
)
from fuse4seg.comparison.prepared_data import as_grey, windows_of
from fuse4seg.comparison.rows import Row
from fuse4seg.comparison.trainings import Budget, Trial
from fuse4seg.inference.image_files import write_fused
from fuse4seg.inference.panel import LABEL_COLOURS, Tile

DATASET, CASE = "Dataset990_Phantom", "phantom_000"
NAMES = ("T1", "T1ce", "T2", "FLAIR")


def tile(title: str = "", width: int = 100) -> Tile:
    return Tile(title, np.zeros((80, width)))


class TestArranged:
    def test_has_tiles_beside_each_other_in_their_own_size(self) -> None:
        placed = arranged([[tile()], [tile(), tile()]])
        assert [(left, top) for _, left, top in placed] == [(GAP, TITLE), (2 * GAP + 200, TITLE), (3 * GAP + 400, TITLE)]

    def test_wraps_without_parting_a_group(self) -> None:
        placed = arranged([[tile()]] * (MOST - 1) + [[tile(), tile()]])
        down = 160 + TITLE + GAP
        assert [top for _, _, top in placed] == [TITLE] * (MOST - 1) + [TITLE + down] * 2
        assert placed[-2].left == GAP

    def test_begins_a_line_where_a_group_is_empty(self) -> None:
        first, second = arranged([[tile()], [], [tile()]])
        assert (second.left, second.top > first.top) == (first.left, True)

    def test_stays_readable_with_large_images(self) -> None:
        """Tiles of 512 pixels are not made larger, and two stand in a line."""
        placed = arranged([[tile(width=900)]] * 4)
        assert [left for _, left, _ in placed] == [GAP, 2 * GAP + 900] * 2


class TestPixels:
    def test_are_several_for_each_voxel(self) -> None:
        image = np.linspace(0, 1, 6).reshape(2, 3)
        found = pixels_of(Tile("", image))
        assert found.shape == (2 * 67, 3 * 67, 3)
        np.testing.assert_array_equal(found[::67, ::67], np.rint(255 * image).astype(np.uint8)[..., None].repeat(3, axis=-1))

    def test_have_colours_of_labels_over_grey(self) -> None:
        found = pixels_of(Tile("", np.full((1, 4), 0.5), labels=np.array([[0, 1, 2, -1]])))[0, ::50]
        for pixel, label in zip(found, (0, 1, 2, 0), strict=True):
            colour = 0.4 * 0.5 + 0.6 * np.array(to_rgb(LABEL_COLOURS[label - 1])) if label else np.full(3, 0.5)
            assert pixel == pytest.approx(255 * colour, abs=1)


class TestChoice:
    def test_is_the_first_case_with_most_classes(self) -> None:
        places = {"c": [[1], [1]], "b": [[1], [1]], "a": [[1], []]}
        dataset = SimpleNamespace(load_case=lambda case: (None, None, None, {"class_locations": dict(enumerate(places[case]))}))
        assert telling_case(dataset, ["c", "b", "a"]) == "b"

    def test_is_of_each_row_the_lowest_seed_of_the_fold(self) -> None:
        results = [{"name": name, "fold": fold, "seed": seed} for name, fold, seed in
                   (("max", 0, 1), ("max", 0, 0), ("max", 1, 0), ("ours", 0, 2))]
        assert first_seeds(results, 0) == [results[1], results[3]]


@pytest.fixture
def preprocessed(planned_phantom: Path) -> Path:
    return planned_phantom / "nnUNet_preprocessed" / DATASET


@pytest.fixture
def plans(preprocessed: Path) -> dict[str, Any]:
    return json.loads((preprocessed / "Fuse4SegPlans.json").read_text())


@pytest.fixture
def trained(preprocessed: Path, plans: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Results of rows whose segmentation is the reference, and whose leader fused in one colour; fold 0 validates CASE."""
    monkeypatch.setattr("fuse4seg.comparison.picture.validation_cases", lambda *_, **__: [CASE])
    _, _, _, properties = nnUNetDatasetBlosc2(str(preprocessed / "nnUNetPlans_2d")).load_case(CASE)
    rows = [Row("stacked"), Row("T2", source=("modality", 2)), Row("max", source=("rule", "max")),
            Row("didfuse", source=("leader", "didfuse")), Row("fuse4seg", ours=True)]
    results = []
    for row in rows:
        trial = Trial(row, 0, 0, DATASET, "2d", "Fuse4SegPlans", tmp_path, Budget(1, 1))
        trial = trial.after_its_leader(Budget(1, 1)) if row.name == "didfuse" else trial
        (trial.fold_folder / "validation").mkdir(parents=True)
        (trial.fold_folder / "validation" / f"{CASE}.nii.gz").symlink_to(preprocessed / "gt_segmentations" / f"{CASE}.nii.gz")
        for by, colour in {"didfuse": (trial.first, [77]), "fuse4seg": (trial, [200, 100, 50])}.items():
            if row.name == by:
                _fuse(colour[0], np.array(colour[1]), properties)
        results.append({**row.to_plain(), "fold": 0, "seed": 0, "segmentation": {}})
    return results


def _fuse(trial: Trial, colour: np.ndarray, properties: dict[str, Any]) -> None:
    folder = trial.fold_folder / "validation" / "fused"
    folder.mkdir(parents=True)
    levels = np.zeros((len(colour), *properties["shape_before_cropping"]), np.uint8)
    levels[(slice(None), *(slice(*ends) for ends in properties["bbox_used_for_cropping"]))] = colour.reshape(-1, 1, 1, 1)
    write_fused(levels, folder, CASE, ".nii.gz", properties)


class TestPicture:
    def test_has_sources_labels_and_every_row_in_its_place(self, trained: list[dict[str, Any]], preprocessed: Path,
                                                           plans: dict[str, Any], tmp_path: Path) -> None:
        said = write_picture(tmp_path / PICTURE, trained, preprocessed, plans=plans, configuration="2d")
        data, labels, _, _ = nnUNetDatasetBlosc2(str(preprocessed / "nnUNetPlans_2d")).load_case(CASE)
        sources, truth = as_grey(data[:], windows_of(plans, "2d")), np.asarray(labels[0])
        index = int((truth > 0).sum(axis=(1, 2)).argmax())
        assert said == {"case": CASE, "fold": 0, "slice": index}
        shown, picture = sources[:, index], np.asarray(Picture.open(tmp_path / PICTURE).convert("RGB"))
        height, width = shown.shape[1:]
        scale = -(-200 // width)

        def at(line: int, column: int) -> np.ndarray:
            top, left = TITLE + line * (scale * height + TITLE + GAP), GAP + column * (scale * width + GAP)
            return picture[top:top + scale * height:scale, left:left + scale * width:scale].astype(int)

        def grey(levels: np.ndarray) -> np.ndarray:
            return np.rint(levels)[..., None].repeat(3, axis=-1)

        for column, levels in enumerate(shown):
            np.testing.assert_allclose(at(0, column), grey(levels), atol=1)
        colours = np.array([to_rgb(colour) for colour in LABEL_COLOURS[:3]])
        outside = truth[index] <= 0
        # stacked over the first source, T2 over itself; then pairs: max, what the leaders fused, each with its segmentation.
        orange = np.broadcast_to([200, 100, 50], (height, width, 3))
        luma = np.full((height, width), 124)  # of that orange
        beneath = {(0, 4): shown[0], (1, 0): shown[0], (1, 1): shown[2], (1, 3): shown.max(axis=0),
                   (1, 5): np.full((height, width), 77), (1, 7): luma}
        fused = {(1, 2): grey(shown.max(axis=0)), (1, 4): grey(np.full((height, width), 77)), (1, 6): orange}
        for place, expected in fused.items():
            np.testing.assert_allclose(at(*place), expected, atol=1)
        for place, levels in beneath.items():
            found = at(*place)
            np.testing.assert_allclose(found[outside], grey(levels)[outside], atol=1)
            for label, colour in enumerate(colours, 1):
                where = truth[index] == label
                expected = 0.4 * grey(levels)[where] + 0.6 * 255 * colour
                np.testing.assert_allclose(found[where], expected, atol=2)

    def test_leaves_out_what_is_gone(self, trained: list[dict[str, Any]], preprocessed: Path, plans: dict[str, Any],
                                     tmp_path: Path) -> None:
        row = Row("FILM", source=("folder", str(tmp_path / "gone")))
        results = [*trained, {**row.to_plain(), "fold": 0, "seed": 0, "segmentation": {}}]
        assert write_picture(tmp_path / PICTURE, results, preprocessed, plans=plans, configuration="2d") is not None

    def test_is_none_where_nothing_is_trained(self, preprocessed: Path, plans: dict[str, Any], tmp_path: Path) -> None:
        assert write_picture(tmp_path / PICTURE, [], preprocessed, plans=plans, configuration="2d") is None
        assert not (tmp_path / PICTURE).exists()
