"""f4s_predict of a BIDS dataset, end to end: what plain files give, and a derivative by the standard's rules.

The rules are those of the schema of BIDS 1.10: rules/files/deriv/imaging.yaml, rules/sidecars/derivatives, and
rules/dataset_metadata.yaml.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from fuse4seg.cli.predict import main

SUFFIXES = ("T1w", "ce-gadolinium_T1w", "T2w", "FLAIR")
#: Entities that a segmentation, and an image of the folder anat, may have in a derivative, in this order.
ENTITIES = ("sub", "ses", "sample", "task", "acq", "ce", "rec", "run", "chunk", "echo", "part", "cohort", "space", "atlas",
            "seg", "scale", "res", "den", "desc")
NAME = re.compile("".join(rf"(?:_?{name}-(?P<{name}>[0-9a-zA-Z+]+))?" for name in ENTITIES)
                  + r"_(?P<suffix>dseg|T1w|T2w|PDw|FLAIR)(?P<ending>\.nii\.gz|\.nii|\.json|\.tsv)")


def predict(root: Path, images: Path, output: Path, *flags: str) -> int:
    return main(["-i", str(images), "-o", str(output), "--root", str(root), "-device", "cpu", "-npp", "0", "-nps", "0", *flags])


@pytest.fixture(scope="module")
def plain(untrained_phantom: Path) -> Path:
    return untrained_phantom / "nnUNet_raw" / "Dataset990_Phantom" / "imagesTs"


def write_subject(root: Path, plain: Path, place: str, *, entities: str = "", count: int = 4) -> Path:
    """Copies of the phantom in root/PLACE/anat."""
    folder = root / place / "anat"
    folder.mkdir(parents=True)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.10.0"}))
    for path, suffix in zip(sorted(plain.glob("*.nii.gz"))[:count], SUFFIXES, strict=False):
        shutil.copy(path, folder / f"{place.replace('/', '_')}{entities}_{suffix}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def predicted(untrained_phantom: Path, plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """derivatives/fuse4seg within a dataset of one subject with sessions and one without; ../../plain has the usual output."""
    root = tmp_path_factory.mktemp("bids") / "data"
    write_subject(root, plain, "sub-01/ses-pre", entities="_acq-iso_run-1")
    write_subject(root, plain, "sub-02")
    output = root / "derivatives" / "fuse4seg"
    assert predict(untrained_phantom, root, output) == 0
    assert predict(untrained_phantom, plain, root.parent / "plain") == 0
    return output


STEMS = ("sub-01/ses-pre/anat/sub-01_ses-pre_acq-iso_run-1", "sub-02/anat/sub-02")


def files_of(derivative: Path) -> list[Path]:
    """What belongs to it, by .bidsignore."""
    ignored = set()
    for pattern in (derivative / ".bidsignore").read_text().split():
        ignored |= set(derivative.glob(pattern.strip("/")))
    return [path for path in derivative.rglob("*") if path.is_file() and not ignored & {path, *path.parents}]


@pytest.mark.parametrize("stem", STEMS)
class TestImages:
    def test_are_what_plain_files_give(self, stem: str, predicted: Path) -> None:
        expected = predicted.parents[2] / "plain"
        for name, usual in ((f"{stem}_desc-fuse4seg_dseg", "phantom_005"), (f"{stem}_desc-fused_T1w", "fused/phantom_005")):
            found, wanted = (sitk.ReadImage(str(path)) for path in (predicted / f"{name}.nii.gz", expected / f"{usual}.nii.gz"))
            np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(wanted))
            assert found.GetDirection() == wanted.GetDirection()

    def test_have_labels_beside_them(self, stem: str, predicted: Path) -> None:
        rows = (predicted / f"{stem}_desc-fuse4seg_dseg.tsv").read_text().splitlines()
        assert rows == ["index\tname", "0\tbackground", "1\tnecrotic_core", "2\toedema", "3\tenhancing_tumour"]

    def test_say_what_they_were_made_of(self, stem: str, predicted: Path) -> None:
        for name in ("desc-fuse4seg_dseg", "desc-fused_T1w"):
            told = json.loads((predicted / f"{stem}_{name}.json").read_text())
            sources = [uri.removeprefix("bids:raw:") for uri in told["Sources"]]
            assert sources == [f"{stem}_{suffix}.nii.gz" for suffix in SUFFIXES]
            links = json.loads((predicted / "dataset_description.json").read_text())["DatasetLinks"]
            assert all((predicted / links["raw"] / source).is_file() for source in sources)
            assert told["SpatialReference"] == told["Sources"][0]
            assert told["Description"]
        assert told["SkullStripped"] is True


class TestDerivative:
    def test_holds_nothing_but_files_of_the_standard(self, predicted: Path) -> None:
        files = files_of(predicted)
        others = {path.name for path in files if path.parent == predicted}
        assert others == {"dataset_description.json", ".bidsignore"}
        names = [path for path in files if path.parent != predicted]
        assert len(names) == len(STEMS) * 5
        for path in names:
            matched = NAME.fullmatch(path.name)
            assert matched, path
            session = [f"ses-{matched['ses']}"] if matched["ses"] else []
            assert list(path.relative_to(predicted).parts[:-1]) == [f"sub-{matched['sub']}", *session, "anat"]
            assert matched["ending"] != ".tsv" or matched["suffix"] == "dseg"

    def test_is_described(self, predicted: Path) -> None:
        told = json.loads((predicted / "dataset_description.json").read_text())
        assert told["DatasetType"] == "derivative"
        assert re.fullmatch(r"\d+\.\d+\.\d+", told["BIDSVersion"])
        assert told["Name"]
        assert [set(entry) for entry in told["GeneratedBy"]] == [{"Name", "Version", "Description"}]

    def test_is_written_again(self, predicted: Path, untrained_phantom: Path, tmp_path: Path) -> None:
        shutil.copytree(predicted.parents[1], tmp_path / "data")
        again = tmp_path / "data" / "derivatives" / "fuse4seg"
        assert predict(untrained_phantom, tmp_path / "data", again) == 0
        for path in files_of(predicted):
            assert (again / path.relative_to(predicted)).read_bytes() == path.read_bytes()


class TestBadInput:
    def test_is_listed_and_sound_subjects_are_done(self, untrained_phantom: Path, plain: Path, tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
        root = tmp_path / "data"
        write_subject(root, plain, "sub-01")
        write_subject(root, plain, "sub-02", count=3)
        folder = write_subject(root, plain, "sub-03")
        shutil.copy(folder / "sub-03_T2w.nii.gz", folder / "sub-03_run-2_T2w.nii.gz")
        assert predict(untrained_phantom, root, tmp_path / "out") == 1
        said = capsys.readouterr().err.splitlines()[-3:]
        assert said[0].startswith(f"error: case sub-02 has no FLAIR image: expected {root / 'sub-02' / 'anat'}")
        assert said[1].startswith("case sub-03: T2 could be sub-03_T2w.nii.gz or sub-03_run-2_T2w.nii.gz")
        assert [path.name for path in sorted((tmp_path / "out").glob("sub-*")) if path.is_dir()] == ["sub-01"]

    def test_the_dataset_itself_is_no_output(self, untrained_phantom: Path, plain: Path, tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
        root = tmp_path / "data"
        write_subject(root, plain, "sub-01")
        before = sorted(root.rglob("*"))
        assert predict(untrained_phantom, root, root) == 1
        assert "holds the input" in capsys.readouterr().err
        assert sorted(root.rglob("*")) == before

    def test_rules_of_series_are_for_dicom(self, untrained_phantom: Path, plain: Path, tmp_path: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:
        assert predict(untrained_phantom, plain, tmp_path / "out", "--series_rules", "rules.toml") == 1
        assert "--series_rules: is for folders of DICOM files" in capsys.readouterr().err
