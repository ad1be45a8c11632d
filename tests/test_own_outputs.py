"""Records of what this tool wrote: other people's files are never among them, and none is forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuse4seg.errors import OptionError, UnreadableRecordError
from fuse4seg.own_outputs import RECORD, claim_outputs, require_apart


class TestClaimOutputs:
    def test_refuses_what_is_there_and_counts_it(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / name).touch()
        with pytest.raises(OptionError, match=f"{tmp_path / 'a'} and 1 more would be replaced"):
            claim_outputs(tmp_path, ["a", "b", "c"])
        claim_outputs(tmp_path, ["c"])
        claim_outputs(tmp_path, ["a", "b", "c"], overwrite=True)

    def test_refuses_links_that_lead_nowhere_and_folders(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        (tmp_path / "folder").mkdir()
        for name in ("link", "folder"):
            with pytest.raises(OptionError, match=name):
                claim_outputs(tmp_path, [name])

    def test_remembers_what_every_run_noted(self, tmp_path: Path) -> None:
        claim_outputs(tmp_path, ["a"]).note()
        claim_outputs(tmp_path, ["b"]).note()
        before = (tmp_path / RECORD).stat().st_mtime_ns
        for name in ("a", "b"):
            (tmp_path / name).touch()
        claim_outputs(tmp_path, ["a", "b"]).note()
        assert (tmp_path / RECORD).stat().st_mtime_ns == before

    def test_makes_no_folder_and_notes_nothing_by_itself(self, tmp_path: Path) -> None:
        claim_outputs(tmp_path / "out", ["a"])
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("content", ["{", "{}", "[1]"])
    def test_refuses_a_damaged_record(self, tmp_path: Path, content: str) -> None:
        (tmp_path / RECORD).write_text(content)
        (tmp_path / "a").touch()
        with pytest.raises(UnreadableRecordError, match=f"{RECORD} .*with --overwrite"):
            claim_outputs(tmp_path, ["a"])


class TestRequireApart:
    @pytest.mark.parametrize("place", ["Dataset001_A", "Dataset001_A/labelsTs", "Dataset001_A/imagesTr", "in", "in/../in"])
    def test_refuses_inputs_and_raw_datasets(self, tmp_path: Path, place: str) -> None:
        (tmp_path / "Dataset001_A" / "imagesTr").mkdir(parents=True)
        (tmp_path / "in").mkdir()
        with pytest.raises(OptionError, match="--overwrite"):
            require_apart(tmp_path / place, [tmp_path / "in"])
        require_apart(tmp_path / place, [tmp_path / "in"], overwrite=True)

    def test_allows_other_folders_beside_and_below(self, tmp_path: Path) -> None:
        (tmp_path / "Dataset001_A" / "imagesTr").mkdir(parents=True)
        (tmp_path / "dataset.json").touch()
        for place in ("Dataset001_A/predictions", "in/out", "."):
            require_apart(tmp_path / place, [tmp_path / "in"])
