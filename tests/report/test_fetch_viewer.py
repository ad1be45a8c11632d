"""The viewer is fetched by npm, checked, and done without where it cannot be had."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from fuse4seg.report import fetch_viewer
from fuse4seg.report.page import viewer_licence, viewer_script


def archive(content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as package:
        member = tarfile.TarInfo(fetch_viewer.MEMBER)
        member.size = len(content)
        package.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def npm(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stands for npm, which packs an archive whose checksum is the one known; gives what it was called with."""
    calls: list[list[str]] = []
    packed = archive(b"the viewer")

    def run(command: list[str], *, cwd: str, **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        Path(cwd, "package.tgz").write_bytes(packed)
        return subprocess.CompletedProcess(command, 0, "package.tgz\n", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(fetch_viewer, "SHA512", base64.b64encode(hashlib.sha512(packed).digest()).decode())
    return calls


class TestFetchViewer:
    def test_puts_the_script_into_the_folder_once(self, npm: list[list[str]], tmp_path: Path) -> None:
        assert fetch_viewer.fetch_viewer(tmp_path).read_bytes() == b"the viewer"
        assert fetch_viewer.fetch_viewer(tmp_path) == tmp_path / fetch_viewer.SCRIPT
        assert len(npm) == 1
        assert npm[0][:3] == ["npm", "pack", "@niivue/niivue@0.69.0"]

    @pytest.mark.usefixtures("npm")
    def test_refuses_another_archive(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                     capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(fetch_viewer, "SHA512", "another")
        assert fetch_viewer.fetch_viewer(tmp_path) is None
        assert "its checksum is not the one known" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("error", [FileNotFoundError("npm"), subprocess.TimeoutExpired("npm", 1),
                                       subprocess.CalledProcessError(1, "npm", stderr="npm error network\nnpm error no route")])
    def test_goes_on_with_one_line_where_npm_fails(self, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
        def run(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(subprocess, "run", run)
        assert fetch_viewer.fetch_viewer(tmp_path) is None
        said = capsys.readouterr().err
        assert said.startswith("warning: reports will have no interactive viewer")
        assert said.count("\n") == 1

    def test_imports_nothing_that_is_not_there_while_the_package_is_built(self) -> None:
        source = Path(fetch_viewer.__file__).read_text()
        assert re.findall(r"^(?:from|import) (?!__future__)(\w+)", source, re.MULTILINE) == [
            "base64", "hashlib", "subprocess", "sys", "tarfile", "tempfile", "pathlib"]


class TestVendored:
    def test_the_licence_is_there_whether_or_not_the_script_is(self) -> None:
        assert "BSD 2-Clause License" in viewer_licence()
        assert "Copyright (c) 2021, Niivue" in viewer_licence()

    @pytest.mark.skipif(viewer_script() is None, reason="NiiVue was not fetched: python -m fuse4seg.report.fetch_viewer")
    def test_the_script_is_a_plain_one(self) -> None:
        assert viewer_script().startswith("(function(")
