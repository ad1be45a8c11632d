"""f4s_evaluate_fusion: table on stdout, files on disk, and an exit status that says when a case is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from fuse4seg.cli.evaluate_fusion import main


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """The command's words for two cases of noise."""
    random = np.random.default_rng(0)
    for name in ("CT", "MRI", "fused"):
        (tmp_path / name).mkdir()
        for case in "ab":
            Picture.fromarray(random.integers(0, 256, (48, 48), dtype=np.uint8)).save(tmp_path / name / f"{case}.png")
    return ["-i", str(tmp_path / "CT"), str(tmp_path / "MRI"), "-f", str(tmp_path / "fused"), "-np", "1",
            "-o", str(tmp_path / "r" / "r.json")]


def test_prints_a_table_and_writes_json_and_csv(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    names = ["EN", "SD", "SF", "MI", "SCD", "VIF", "Qabf", "SSIM"]
    assert capsys.readouterr().out.splitlines()[0].split() == ["fused", *names]
    assert list(json.loads((tmp_path / "r" / "r.json").read_text())["mean"]) == names
    assert (tmp_path / "r" / "r.csv").is_file()


def test_a_faulty_case_fails_the_command_but_not_the_others(words: list[str], tmp_path: Path,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "MRI" / "b.png").write_text("")
    assert main(words) == 1
    captured = capsys.readouterr()
    assert "mean" in captured.out
    assert "b.png cannot be read" in captured.err
    assert list(json.loads((tmp_path / "r" / "r.json").read_text())["cases"]) == ["a"]


@pytest.mark.parametrize(("flags", "problem"), [(["--range", "1", "1"], "black"), (["--ssim_range", "0"], "--ssim_range"),
                                                (["-np", "0"], "-np"), (["-o", "result.txt"], "does not end with .json")])
def test_options_out_of_range_are_one_line(words: list[str], flags: list[str], problem: str,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, *flags]) == 1
    captured = capsys.readouterr()
    assert problem in captured.err
    assert captured.out == ""


def test_unpaired_folders_write_nothing(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "fused" / "b.png").unlink()
    assert main(words) == 1
    assert "fused lacks 1 image(s)" in capsys.readouterr().err
    assert not (tmp_path / "r" / "r.json").exists()


class TestCases:
    @pytest.mark.parametrize("text", ["b.png\n", '["b"]', "\n b \n\n"])
    def test_are_scored_alone(self, words: list[str], tmp_path: Path, text: str) -> None:
        (tmp_path / "split").write_text(text)
        (tmp_path / "fused" / "a.png").unlink()
        assert main([*words, "--cases", str(tmp_path / "split")]) == 0
        assert list(json.loads((tmp_path / "r" / "r.json").read_text())["cases"]) == ["b"]

    @pytest.mark.parametrize(("text", "said"), [
        ('{"train": ["a"]}', "is no list of names"), ("[1]", "is no list of names"), ("[", "cannot be read"),
        ("\n", "names no case"), ("a\na.png", "names a twice"), ("a\nc", "lacks 1 of the chosen case(s): c")])
    def test_in_a_file_that_does_not_do_are_one_line(self, words: list[str], tmp_path: Path, text: str, said: str,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "split").write_text(text)
        assert main([*words, "--cases", str(tmp_path / "split")]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
        assert not (tmp_path / "r" / "r.json").exists()

    def test_in_no_file_are_one_line(self, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([*words, "--cases", str(tmp_path / "nowhere")]) == 1
        assert "nowhere cannot be read" in capsys.readouterr().err


def test_published_rows_stand_under_ones_own(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--published", "harvard-mri-ct"]) == 0
    own, published = capsys.readouterr().out.split("\n\n")
    assert own.splitlines()[-1].startswith("maximum")
    assert "on 21 pairs (yours: 2)" in published
    assert "\nFuse4Seg [1]" in published


class TestLabels:
    @pytest.fixture
    def labels(self, tmp_path: Path) -> Path:
        """A class in the middle, of every case."""
        (tmp_path / "labels").mkdir()
        drawn = np.zeros((48, 48), np.uint8)
        drawn[12:36, 12:36] = 2
        for case in "ab":
            Picture.fromarray(drawn).save(tmp_path / "labels" / f"{case}.png")
        return tmp_path / "labels"

    def test_add_visibility_to_the_table_and_the_file(self, words: list[str], labels: Path, tmp_path: Path,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
        assert main([*words, "--labels", str(labels)]) == 0
        _, table = capsys.readouterr().out.split("\n\n")
        header, _, *lines = table.splitlines()
        assert header.split() == ["row", "visibility", "surrounding|2"]
        assert [line.split("  ")[0] for line in lines] == ["fused", "copy of CT", "copy of MRI", "average", "maximum",
                                                           "all sources together"]
        found = json.loads((tmp_path / "r" / "r.json").read_text())["visibility"]["mean"]["all sources together"]
        assert found.keys() == {"visibility", "surrounding|2"}
        # Noise shows no boundary.
        assert 0.5 <= found["visibility"] == found["surrounding|2"] < 0.6

    def test_on_another_grid_or_in_colour_fail_in_a_line_each(self, words: list[str], labels: Path, tmp_path: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
        Picture.new("L", (47, 48), 1).save(labels / "a.png")
        Picture.new("RGB", (48, 48), (1, 2, 3)).save(labels / "b.png")
        assert main([*words, "--labels", str(labels)]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        *_, grid, colour, summary = captured.err.splitlines()
        assert f"{labels / 'a.png'} has shape (48, 47) instead of (48, 48)" in grid
        assert f"{labels / 'b.png'} is in colour, and label values are wanted" in colour
        assert summary.startswith("2 faulty case(s)")
        assert not (tmp_path / "r" / "r.json").exists()

    def test_of_no_folder_fail_in_one_line(self, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([*words, "--labels", str(tmp_path / "nowhere")]) == 1
        assert capsys.readouterr().err == f"error: {tmp_path / 'nowhere'} is not a folder. Check the path.\n"


def test_fused_images_in_colour_and_grey_together_write_nothing(words: list[str], tmp_path: Path,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    Picture.new("RGB", (48, 48), (90, 20, 10)).save(tmp_path / "fused" / "b.png")
    assert main(words) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    last = captured.err.splitlines()[-1]
    assert last == f"error: {tmp_path / 'fused' / 'b.png'} is in colour, but a.png is grey. Give images that one method fused."
    assert not (tmp_path / "r" / "r.json").exists()


def test_a_file_of_other_people_is_replaced_on_demand_alone(words: list[str], tmp_path: Path,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "r.csv").write_text("theirs")
    assert main(words) == 1
    assert "r.csv would be replaced" in capsys.readouterr().err
    assert (tmp_path / "r" / "r.csv").read_text() == "theirs"
    assert main([*words, "--overwrite"]) == 0
    assert main(words) == 0


@pytest.mark.parametrize("numbers", ["0", "0 1 2", "0 1 0 1 0 1 0 1"])
def test_ranges_are_pairs_for_all_sources_or_each(words: list[str], numbers: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--range", *numbers.split()]) == 1
    assert "error: --range: takes" in capsys.readouterr().err
