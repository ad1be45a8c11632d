"""Files that appear whole or not at all, and folders that are proven writable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuse4seg.errors import PlansNotFoundError, UnwritableFolderError
from fuse4seg.files import make_writable_folder, read_json, remove_stale, write_json, written_whole


class TestWrittenWhole:
    def test_file_appears_when_the_block_ends(self, tmp_path: Path) -> None:
        path = tmp_path / "image.nii.gz"
        with written_whole(path) as temporary:
            temporary.write_text("new")
            assert not path.exists()
        assert path.read_text() == "new"
        assert list(tmp_path.iterdir()) == [path]

    def test_old_content_stays_until_the_block_ends(self, tmp_path: Path) -> None:
        path = tmp_path / "scores.json"
        path.write_text("old")
        with written_whole(path) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old"
        assert path.read_text() == "new"

    @pytest.mark.parametrize(("name", "ending"), [("case.nii.gz", ".nii.gz"), ("progress.png", ".png"), ("a.v1.tif", ".tif"),
                                                  ("checkpoint_final.pth", ".pth"), (f"{250 * 'a'}.json", ".json")])
    def test_temporary_name_is_hidden_and_ends_alike(self, tmp_path: Path, name: str, ending: str) -> None:
        with written_whole(tmp_path / name) as temporary:
            temporary.touch()
            assert temporary.parent == tmp_path
            assert temporary.name.startswith(".")
            assert temporary.name.endswith(ending)
        assert [path.name for path in tmp_path.iterdir()] == [name]

    @pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
    def test_failure_leaves_the_old_file_and_nothing_else(self, tmp_path: Path, failure: type[BaseException]) -> None:
        path = tmp_path / "scores.json"
        path.write_text("old")

        def write_half() -> None:
            with written_whole(path) as temporary:
                temporary.write_text("half")
                raise failure

        with pytest.raises(failure):
            write_half()
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_keeps_the_file_that_it_replaces_if_asked(self, tmp_path: Path) -> None:
        path, previous = tmp_path / "latest.txt", tmp_path / "previous.txt"
        for content in ("first", "second", "third"):
            with written_whole(path, previous=previous) as temporary:
                temporary.write_text(content)
        assert (path.read_text(), previous.read_text()) == ("third", "second")
        with pytest.raises(ValueError), written_whole(path, previous=previous):  # noqa: PT011 (it is this test's own)
            raise ValueError
        assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"latest.txt": "third", "previous.txt": "second"}

    def test_syncs_the_content_before_the_rename_and_the_folder_after(self, tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
        """What a loss of power would leave is an old or a new file, never an empty one."""
        path, synced = tmp_path / "latest.txt", []
        monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(
            (os.path.samestat(os.fstat(descriptor), tmp_path.stat()), path.exists())))
        with written_whole(path) as temporary:
            temporary.write_text("new")
        assert synced == [(False, False), (True, True)]

    def test_refusal_of_the_system_names_folder_and_reason(self, tmp_path: Path) -> None:
        with (pytest.raises(UnwritableFolderError, match=r"nowhere \(No such file or directory\)"),
              written_whole(tmp_path / "nowhere" / "scores.json") as temporary):
            temporary.write_text("new")

    def test_does_not_write_over_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "scores.json").mkdir()
        with pytest.raises(UnwritableFolderError, match=str(tmp_path)), written_whole(tmp_path / "scores.json") as temporary:
            temporary.write_text("new")
        assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


class TestReadJson:
    def test_gives_what_was_written(self, tmp_path: Path) -> None:
        (tmp_path / "plans.json").write_text('{"a": [1, 2.5, null]}')
        assert read_json(tmp_path / "plans.json", PlansNotFoundError) == {"a": [1, 2.5, None]}

    @pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe\x00", b'{"a": {"b": 1, "b": 1}}'])
    def test_raises_what_it_was_asked_for(self, content: bytes | None, tmp_path: Path) -> None:
        if content is not None:
            (tmp_path / "plans.json").write_bytes(content)
        with pytest.raises(PlansNotFoundError, match="plans.json" if content is None else r"plans.json.*cannot be read"):
            read_json(tmp_path / "plans.json", PlansNotFoundError)


class TestWriteJson:
    def test_can_be_read_back(self, tmp_path: Path) -> None:
        content = {"cases": [1, 2.5, None], "name": "Ödem"}
        write_json(content, tmp_path / "scores.json")
        assert json.loads((tmp_path / "scores.json").read_text()) == content

    def test_of_something_else_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError):
            write_json({"object": object()}, tmp_path / "scores.json")
        assert list(tmp_path.iterdir()) == []


class TestMakeWritableFolder:
    def test_makes_a_folder_and_its_parents_and_leaves_it_empty(self, tmp_path: Path) -> None:
        folder = make_writable_folder(tmp_path / "a" / "b")
        assert folder == tmp_path / "a" / "b"
        assert list(folder.iterdir()) == []

    def test_keeps_what_is_there(self, tmp_path: Path) -> None:
        (tmp_path / "old").touch()
        make_writable_folder(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["old"]

    def test_refuses_a_file_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "out").touch()
        with pytest.raises(UnwritableFolderError, match=r"out \(File exists\)"):
            make_writable_folder(tmp_path / "out")
        with pytest.raises(UnwritableFolderError, match=r"out/deeper \(Not a directory\)"):
            make_writable_folder(tmp_path / "out" / "deeper")

    def test_refuses_a_folder_that_takes_no_files(self) -> None:
        # A folder of the system's where not even root can write.
        if not Path("/proc/self").is_dir():
            pytest.skip("no /proc here")
        with pytest.raises(UnwritableFolderError, match="cannot write to /proc/self"):
            make_writable_folder(Path("/proc/self"))


class TestRemoveStale:
    KILLED = ("import os, sys\nfrom pathlib import Path\nfrom fuse4seg.files import written_whole\n"
              "with written_whole(Path(sys.argv[1])) as temporary:\n    temporary.touch()\n    os.kill(os.getpid(), 9)\n")

    def test_deletes_what_a_killed_process_left_half_written(self, tmp_path: Path) -> None:
        (tmp_path / "fused").mkdir()
        for name in ("a.nii.gz", "fused/a.nii.gz"):
            subprocess.run([sys.executable, "-c", self.KILLED, str(tmp_path / name)], check=False)
        assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2
        remove_stale(tmp_path)
        assert [path.name for path in tmp_path.rglob("*")] == ["fused"]

    def test_leaves_what_is_being_written_here_or_elsewhere_and_everything_else(self, tmp_path: Path) -> None:
        others = [tmp_path / name for name in (".1.elsewhere.partial.a.nii.gz", "a.partial.nii.gz", ".notes.partial.txt", "a")]
        for path in others:
            path.touch()
        with written_whole(tmp_path / "b.json") as temporary:
            temporary.touch()
            remove_stale(tmp_path)
            assert temporary.exists()
        assert all(path.exists() for path in others)
