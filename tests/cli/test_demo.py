"""f4s_demo: what it answers to a folder that is not its own, and to flags it does not know."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuse4seg.cli import demo


class TestDemoCommand:
    def test_names_a_folder_that_holds_something_else(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "thesis.txt").touch()
        assert demo.main(["-o", str(tmp_path)]) == 1
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith(f"error: cannot write to {tmp_path}")

    def test_refuses_flags_it_does_not_know(self) -> None:
        with pytest.raises(SystemExit, match="2"):
            demo.main(["--epochs", "3"])
