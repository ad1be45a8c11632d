"""The page on images fused elsewhere, by its own words: slices written, fused by a stand-in, put back, prepared and scored."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from PIL import Image as Picture

from fuse4seg.cli import compare, evaluate_fusion
from fuse4seg.cli.reference import parser_of
from fuse4seg.comparison.prepared_data import prepare_row
from fuse4seg.comparison.rows import choose_rows
from fuse4seg.datasets.phantom import write_phantom_dataset

PAGE = Path(__file__).parents[2] / "documentation" / "how-to" / "images-fused-elsewhere.md"
#: The page's dataset, and the one at hand.
NAMES = ("Dataset502_BraTST1ceFlair", "Dataset990_Phantom")
BLOCKS = [block.replace(*NAMES) for block in re.findall(r"(?:^ {4}.*\n)+", PAGE.read_text(), re.MULTILINE)]
PROGRAMS = [re.sub("^ {4}", "", block, flags=re.MULTILINE) for block in BLOCKS if "import" in block]
COMMANDS = {words[0]: words[1:] for block in BLOCKS if block.startswith("    f4s_") for words in [shlex.split(block)]}


def fuse_as_ddfm() -> None:
    """In its place: it cuts pictures to multiples of 32, fuses, stretches, and writes by the name up to the first full stop."""
    Path("output", "recon").mkdir(parents=True)
    for path in Path("input", "ir").iterdir():
        pair = [np.asarray(Picture.open(Path("input", folder, path.name)), float) for folder in ("ir", "vi")]
        rows, columns = (extent - extent % 32 for extent in pair[0].shape)
        fused = np.mean(pair, axis=0)[:rows, :columns]
        fused = 255 * (fused - fused.min()) / max(np.ptp(fused), 1)
        Picture.fromarray(fused.astype(np.uint8)).save(Path("output", "recon", f"{path.name.split('.')[0]}.png"))


def fuse(raw: Path) -> Path:
    """Run the page's programs in the working directory on a raw root; the folder of fused images."""
    Path("nnUNet_raw").symlink_to(raw)
    first, second = PROGRAMS
    exec(first, {})
    fuse_as_ddfm()
    exec(second, {})
    return Path("DDFM").absolute()


@pytest.fixture
def fused(planned_phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return fuse(planned_phantom / "nnUNet_raw")


def test_images_lie_on_the_grids_of_their_sources(fused: Path, planned_phantom: Path) -> None:
    sources = sorted((planned_phantom / "nnUNet_raw" / NAMES[1] / "imagesTr").glob("*_0000.nii.gz"))
    assert [path.name for path in sorted(fused.iterdir())] == [path.name.replace("_0000", "") for path in sources]
    for path, source in zip(sorted(fused.iterdir()), sources, strict=True):
        image, given = sitk.ReadImage(str(path)), sitk.ReadImage(str(source))
        for of_both in (sitk.Image.GetSize, sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection):
            assert of_both(image) == pytest.approx(of_both(given), abs=1e-6)
        middle = image.GetSize()[2] // 2
        voxels, expected = (sitk.GetArrayFromImage(one)[middle].astype(float) for one in (image, given))
        assert np.corrcoef(voxels.ravel(), expected.ravel())[0, 1] > 0.7


def test_the_row_of_the_pages_command_holds_them(fused: Path, planned_phantom: Path, tmp_path: Path) -> None:
    options = parser_of("f4s_compare").parse_args(COMMANDS["f4s_compare"])
    images = {name: Path(folder) for name, folder in compare.pairs(options.images, "--images").items() if name == "DDFM"}
    source = planned_phantom / "nnUNet_preprocessed" / NAMES[1]
    rows = choose_rows(options.rows, modalities=["T1", "T1ce", "T2", "FLAIR"], images=images)
    plans = json.loads((source / "Fuse4SegPlans.json").read_text())
    prepare_row(rows[-1], source, tmp_path / "row", plans=plans, configuration="2d")
    dataset = nnUNetDatasetBlosc2(str(tmp_path / "row" / "nnUNetPlans_2d"))
    assert sorted(dataset.identifiers) == [path.name.removesuffix(".nii.gz") for path in sorted(fused.iterdir())]
    (channel,) = dataset.load_case(sorted(dataset.identifiers)[0])[0][:]
    assert (channel.mean(), channel.std()) == (pytest.approx(0, abs=1e-3), pytest.approx(1, abs=1e-3))


def test_they_are_scored_by_the_pages_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_phantom_dataset(tmp_path / "raw", dataset_id=990, training_cases=1, test_cases=0, seed=0, shape=(32, 44, 50))
    (case,) = fuse(tmp_path / "raw").iterdir()
    assert evaluate_fusion.main([*COMMANDS["f4s_evaluate_fusion"], "-np", "1"]) == 0
    assert list(json.loads((tmp_path / "DDFM.json").read_text())["cases"]) == [case.name.removesuffix(".nii.gz")]
