"""BraTS-Fuse on phantoms: everything is there, checksums hold, it resumes, and it never changes what is whole."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as Picture

from fuse4seg.brats_fuse import COMBINATIONS, Build, build_brats_fuse, format_metrics
from fuse4seg.datasets.brats import MODALITIES
from fuse4seg.errors import OptionError
from fuse4seg.evaluation.fusion_metrics import METRICS, fusion_metrics
from fuse4seg.files import checksum
from fuse4seg.inference.find_model import model_in


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def bytes_of(folder: Path) -> dict[Path, bytes]:
    return {path: content for path, (content, _) in contents(folder).items()}


@pytest.fixture(scope="module")
def built(brats_release: Path, trained_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("built") / "out"
    assert build_brats_fuse(brats_release, Build(output, model_in(trained_model)), processes=2) == []
    return output


def test_there_are_eleven_combinations() -> None:
    assert len(COMBINATIONS) == 11
    assert COMBINATIONS[-1] == MODALITIES


def test_every_slice_with_brain_is_there_and_no_other(built: Path) -> None:
    slices = {f"BraTS2021_{case}_{index:03d}.png" for case in (1, 2) for index in (1, 2, 3)}
    folders = [*(built / "sources" / name for name in MODALITIES), built / "masks",
               *(built / "fused" / "+".join(chosen) for chosen in COMBINATIONS)]
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == slices
    assert set(np.unique(np.asarray(Picture.open(built / "masks" / "BraTS2021_1_002.png")))) == {0, 3}


def test_the_manifest_names_every_file_with_its_checksum_and_what_it_was_made_from(built: Path, brats_release: Path,
                                                                                   trained_model: Path) -> None:
    manifest = json.loads((built / "manifest.json").read_text())
    files = {name: known for case in manifest["cases"].values() for name, known in case["files"].items()}
    assert set(files) == {str(path.relative_to(built)) for path in built.rglob("*.png")}
    assert all(checksum(built / name) == known for name, known in files.items())
    sources = manifest["cases"]["BraTS2021_1"]["sources"]
    assert sources == {path.name: checksum(path) for path in (brats_release / "BraTS2021_1").iterdir()}
    assert manifest["model"]["sha256"] == checksum(trained_model / "fold_0" / "checkpoint_final.pth")
    assert manifest["cases"]["BraTS2021_1"]["brain_extraction"].startswith("skipped")
    assert str(brats_release) not in (built / "manifest.json").read_text()


def test_labels_mean_what_the_release_says_and_not_the_case(built: Path, brats_release: Path, trained_model: Path,
                                                            tmp_path: Path) -> None:
    assert json.loads((built / "manifest.json").read_text())["labels"]["enhancing tumour"] == 3
    source = tmp_path / "in"
    shutil.copytree(brats_release, source)
    label = source / "BraTS2021_2" / "BraTS2021_2_seg.nii.gz"
    stored = sitk.ReadImage(str(label))
    sitk.WriteImage(sitk.Cast(stored == 4, sitk.sitkUInt8) * 3, str(label))
    with pytest.raises(OptionError, match=r"label values \[0, 3, 4\] do not tell the release"):
        build_brats_fuse(source, Build(tmp_path / "out", model_in(trained_model)), processes=1)
    assert not (tmp_path / "out").exists()


def test_combinations_differ_and_are_black_outside_the_brain(built: Path) -> None:
    images = [np.asarray(Picture.open(built / "fused" / "+".join(chosen) / "BraTS2021_2_001.png")) for chosen in COMBINATIONS]
    assert len({image.tobytes() for image in images}) == 11
    assert all(not image[:2].any() and not image[:, :3].any() for image in images)


def test_the_table_holds_the_metrics_of_the_slices(built: Path) -> None:
    rows = list(csv.DictReader((built / "metrics.csv").open()))
    assert len(rows) == 11 * 3 * 3
    (row,) = (row for row in rows if (row["case"], row["combination"], row["row"]) == ("BraTS2021_1", "T1+FLAIR", "fused"))
    volumes = [np.stack([np.asarray(Picture.open(built / folder / f"BraTS2021_1_{index:03d}.png")) for index in (1, 2, 3)])
               for folder in ("fused/T1+FLAIR", "sources/T1", "sources/FLAIR")]
    # In colour, of which the luma is scored.
    assert volumes[0].shape[-1] == 3
    expected = fusion_metrics(np.rint(volumes[0] @ [0.299, 0.587, 0.114]).astype(np.uint8), volumes[1:])
    assert {metric: float(row[metric]) for metric in METRICS} == pytest.approx(expected, rel=1e-3)  # ties in rounding
    assert len(format_metrics(built / "metrics.csv").splitlines()) == 2 + 33


def test_a_second_run_touches_nothing(built: Path, brats_release: Path, trained_model: Path) -> None:
    before = contents(built)
    assert build_brats_fuse(brats_release, Build(built, model_in(trained_model)), processes=1) == []
    assert contents(built) == before


@pytest.mark.parametrize("damage", ["killed midway", "file lost", "file changed"])
def test_what_was_interrupted_or_damaged_ends_as_undisturbed(built: Path, brats_release: Path, trained_model: Path,
                                                             tmp_path: Path, damage: str) -> None:
    output = tmp_path / "out"
    build = Build(output, model_in(trained_model))
    build_brats_fuse(brats_release, build, processes=1)
    picture = output / "fused" / "T1+T2" / "BraTS2021_2_002.png"
    if damage == "killed midway":
        for path in (output / "cases" / "BraTS2021_2.json", output / "manifest.json", output / "metrics.csv", picture):
            path.unlink()
    elif damage == "file lost":
        picture.unlink()
    else:
        picture.write_bytes(picture.read_bytes()[:-9])
    assert build_brats_fuse(brats_release, build, processes=1) == []
    # One process or two: the same bytes.
    assert bytes_of(output) == bytes_of(built)


@pytest.mark.parametrize("name", ["manifest.json", "metrics.csv", "sources/T1/a.png", "masks/a.png", "cases/a.json"])
def test_replaces_no_file_of_other_people(brats_release: Path, trained_model: Path, tmp_path: Path, name: str) -> None:
    place = tmp_path / "out" / name
    place.parent.mkdir(parents=True)
    place.write_bytes(b"theirs")
    for output, problem in ((tmp_path / "out", "would be replaced"), (brats_release, "holds the input")):
        with pytest.raises(OptionError, match=problem):
            build_brats_fuse(brats_release, Build(output, model_in(trained_model)), processes=1)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [place]
