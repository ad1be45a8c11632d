"""f4s_info: for people, and as JSON."""

from __future__ import annotations

import json

import pytest

from fuse4seg.cli.info import main


def test_prints_all_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert main(["--json"]) == 0
    parts = json.loads(capsys.readouterr().out)
    assert list(parts) == ["versions", "machine", "devices", "variables", "roots", "models", "extras"]
    assert [line for line in text.splitlines() if not line.startswith(" ")] == list(parts)
