"""f4s_evaluate: the table on stdout, the JSON on request, and one line for each failure."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from fuse4seg.cli.evaluate import main
from fuse4seg.evaluation.folders import METRICS

DESCRIPTION = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "tumour": 1}, "numTraining": 1,
               "file_ending": ".nii.gz"}


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """References beside dataset.json and predictions, whose one case has a Dice of 2/3."""
    for variable in ("nnUNet_def_n_proc", "nnUNet_n_proc_DA", "nnUNet_extTrainer"):
        monkeypatch.setenv(variable, "1")  # The command changes these; monkeypatch restores them.
    for kind, voxels in {"references": [1, 1, 0, 0], "predictions": [1, 0, 0, 0]}.items():
        (tmp_path / kind).mkdir()
        image = SimpleITK.GetImageFromArray(np.array(voxels, np.uint8).reshape(1, 2, 2))
        SimpleITK.WriteImage(image, str(tmp_path / kind / "a.nii.gz"))
    (tmp_path / "dataset.json").write_text(json.dumps(DESCRIPTION))
    return tmp_path / "references", tmp_path / "predictions"


def words(*arguments: object) -> list[str]:
    return [str(argument) for argument in arguments]


class TestEvaluate:
    def test_prints_cases_mean_and_foreground_mean(self, folders: tuple[Path, Path],
                                                   capsys: pytest.CaptureFixture[str]) -> None:
        assert main(words(*folders)) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[:4] == ["Dice  tumour", "------------", "a     0.6667", "mean  0.6667"]
        assert re.split("  +", lines[5]) == ["mean", "Dice", "95 % interval", *METRICS[1:], "left out, at most"]
        assert lines[-1] == "mean foreground Dice 0.6667"

    def test_takes_the_references_first(self, folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
        (folders[1] / "a.nii.gz").unlink()
        assert main(words(*folders)) == 1
        assert capsys.readouterr().err.startswith(f"error: {folders[1]} holds no file")

    def test_has_nothing_to_score_by_a_dataset_json_without_labels(self, folders: tuple[Path, Path],
                                                                   capsys: pytest.CaptureFixture[str]) -> None:
        path = folders[1] / "dataset.json"
        path.write_text(json.dumps(DESCRIPTION | {"labels": {"background": 0}}))
        assert main(words(*folders)) == 1
        assert capsys.readouterr().err == (f"error: {path}: names no label but background, so there is nothing to score. "
                                           f"Give -djfile FILE.\n")

    def test_prefers_the_dataset_json_among_the_predictions(self, folders: tuple[Path, Path],
                                                            capsys: pytest.CaptureFixture[str]) -> None:
        renamed = DESCRIPTION | {"labels": {"background": 0, "lesion": 1}}
        (folders[1] / "dataset.json").write_text(json.dumps(renamed))
        assert main(words(*folders)) == 0
        assert "lesion" in capsys.readouterr().out

    def test_takes_the_dataset_json_that_is_named(self, folders: tuple[Path, Path],
                                                  capsys: pytest.CaptureFixture[str]) -> None:
        (folders[0].parent / "dataset.json").rename(folders[0].parent / "other.json")
        assert main(words(*folders, "-djfile", folders[0].parent / "other.json")) == 0
        assert "tumour" in capsys.readouterr().out

    def test_writes_json_on_request(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        assert main(words(*folders, "-o", tmp_path / "dice.json")) == 0
        assert json.loads((tmp_path / "dice.json").read_text())["foreground_mean"]["Dice"] == pytest.approx(2 / 3)

    @pytest.mark.parametrize("missing", ["dataset.json", "references", "predictions"])
    def test_explains_what_is_missing_in_one_line(self, folders: tuple[Path, Path], missing: str, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / missing).rename(tmp_path / "away")
        assert main(words(*folders)) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert len(captured.err.splitlines()) == 1
        assert str(tmp_path / missing) in captured.err

    def test_explains_a_file_that_cannot_be_written(self, folders: tuple[Path, Path], tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
        assert main(words(*folders, "-o", tmp_path / "nowhere" / "dice.json")) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "error: cannot write to" in captured.err

    def test_refuses_unknown_flags(self, folders: tuple[Path, Path]) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(words(*folders, "--chill"))

    def test_scores_regions_beside_the_classes(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        labels = {"background": 0, "necrotic core": 1, "oedema": 2, "enhancing tumour": 3}
        (tmp_path / "dataset.json").write_text(json.dumps(DESCRIPTION | {"labels": labels}))
        assert main(words(*folders, "--regions", "brats", "mine=1,2", "-o", tmp_path / "r.json")) == 0
        mean = json.loads((tmp_path / "r.json").read_text())["mean"]
        assert list(mean) == [*list(labels)[1:], "WT", "TC", "ET", "mine"]
        assert mean["mine"]["Dice"] == mean["WT"]["Dice"] == pytest.approx(2 / 3)

    @pytest.mark.parametrize(("region", "said"), [("brats", "WT holds label 2"), ("mine=", "no region"), ("1,2", "no region"),
                                                  ("mine=0,1", "holds label 0")])
    def test_refuses_regions_that_there_are_not(self, folders: tuple[Path, Path], region: str, said: str,
                                                capsys: pytest.CaptureFixture[str]) -> None:
        assert main(words(*folders, "--regions", region)) == 1
        assert said in capsys.readouterr().err

    def test_a_label_that_is_not_declared_fails_the_command_but_not_the_other_cases(
            self, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for folder in folders:
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.full((1, 2, 2), 7, np.uint8)), str(folder / "b.nii.gz"))
        assert main(words(*folders, "-o", tmp_path / "r.json")) == 1
        captured = capsys.readouterr()
        assert f"{folders[1] / 'b.nii.gz'} holds the value 7" in captured.err
        assert "mean foreground Dice 0.6667" in captured.out
        written = json.loads((tmp_path / "r.json").read_text())
        assert list(written["cases"]) == ["a"]
        assert len(written["faults"]) == 1

    def test_writes_nnunets_summary(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        assert main(words(*folders, "--summary", tmp_path / "summary.json")) == 0
        assert json.loads((tmp_path / "summary.json").read_text())["mean"]["1"]["Dice"] == pytest.approx(2 / 3)

    def test_compares_with_another_method(self, folders: tuple[Path, Path], tmp_path: Path,
                                          capsys: pytest.CaptureFixture[str]) -> None:
        assert main(words(*folders, "--against", folders[0], "-o", tmp_path / "r.json")) == 0
        out = capsys.readouterr().out
        assert "fewer than 6 pairs cannot reach p < .05" in out
        found = json.loads((tmp_path / "r.json").read_text())["against"]["Dice"]["tumour"]
        assert found["difference"] == pytest.approx(2 / 3 - 1)
        assert found["pairs"] == 1
        assert found["interval"] == [None, None]


class TestOutputNames:
    @pytest.mark.parametrize("flags", [("-o", "fold_0.5"), ("-o", "table.csv"), ("--summary", "table.csv"),
                                       ("-o", "r.json", "--summary", "r.json")])
    def test_that_would_overwrite_one_another_are_refused(self, folders: tuple[Path, Path], tmp_path: Path,
                                                          flags: tuple[str, ...],
                                                          capsys: pytest.CaptureFixture[str]) -> None:
        before = sorted(tmp_path.iterdir())
        given = [flag if flag.startswith("-") else tmp_path / flag for flag in flags]
        assert main(words(*folders, *given)) == 1
        captured = capsys.readouterr()
        assert (captured.out, len(captured.err.splitlines())) == ("", 1)
        assert sorted(tmp_path.iterdir()) == before

    def test_with_dots_keep_both_results_apart(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        for name in ("fold_0.5.json", "fold_0.25.json"):
            assert main(words(*folders, "-o", tmp_path / name)) == 0
        assert {path.name for path in tmp_path.glob("fold_*")} == {"fold_0.5.json", "fold_0.5.csv", "fold_0.25.json",
                                                                   "fold_0.25.csv"}

    @pytest.mark.parametrize(("flag", "theirs", "name"), [("-o", "dataset.json", "dataset.json"), ("-o", "r.csv", "r.json"),
                                                          ("--summary", "dataset.json", "dataset.json")])
    def test_of_other_people_are_refused_and_our_own_replaced(self, folders: tuple[Path, Path], tmp_path: Path, flag: str,
                                                              theirs: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        place = tmp_path / theirs
        place.write_text(json.dumps(DESCRIPTION))
        assert main(words(*folders, flag, tmp_path / name)) == 1
        assert f"{place} would be replaced" in capsys.readouterr().err
        assert json.loads(place.read_text()) == DESCRIPTION
        for _ in range(2):
            assert main(words(*folders, flag, tmp_path / "mine.json")) == 0
