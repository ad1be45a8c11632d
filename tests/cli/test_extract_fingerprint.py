"""f4s_extract_fingerprint: how many processes, which datasets, and what of its flags reaches the extraction."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from fuse4seg.cli.extract_fingerprint import main, processes_of
from fuse4seg.errors import OptionError
from fuse4seg.planning import fingerprint


class TestProcesses:
    def test_are_as_many_as_were_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("nnUNet_def_n_proc", "3")
        assert processes_of(argparse.Namespace(np=5)) == 5

    def test_are_else_as_nnunets_variable_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("nnUNet_def_n_proc", "3")
        assert processes_of(argparse.Namespace(np=None)) == 3

    @pytest.mark.parametrize("number", [0, -2])
    def test_are_one_at_least(self, number: int) -> None:
        with pytest.raises(OptionError, match=f"^-np: {number} processes can do nothing"):
            processes_of(argparse.Namespace(np=number))


class TestFlags:
    @pytest.fixture
    def extracted(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
        """Datasets that were to be extracted, and how."""
        calls: list[tuple[str, dict[str, Any]]] = []
        monkeypatch.setattr(fingerprint, "extract_fingerprint", lambda dataset, **how: calls.append((dataset, how)))
        return calls

    @pytest.mark.parametrize(("flags", "how"), [([], {}), (["--clean"], {"overwrite": True}),
                                                (["--no_integrity_check"], {"check": False}),
                                                (["--allow_missing"], {"allow_missing": True})])
    def test_hold_for_every_dataset(self, tmp_path: Path, extracted: list[tuple[str, dict[str, Any]]], flags: list[str],
                                    how: dict[str, bool]) -> None:
        assert main(["-d", "7", "Dataset008_Both", "--root", str(tmp_path), "-np", "2", *flags]) == 0
        usual = {"processes": 2, "overwrite": False, "check": True, "allow_missing": False}
        assert extracted == [(dataset, {**usual, **how}) for dataset in ("7", "Dataset008_Both")]
