"""What f4s_info tells: versions as they are installed, roots, models, and what is missing; and nothing of patients."""

from __future__ import annotations

import json
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from fuse4seg import info
from fuse4seg.info import collect, to_text


class TestCollect:
    def test_versions_are_those_of_the_packages(self) -> None:
        found = collect()["versions"]
        assert found["python"] == platform.python_version()
        assert found["torch"] == torch.__version__ or found["torch"] == version("torch")
        assert found["nnunetv2"] == version("nnunetv2")

    def test_extras_tell_what_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        needs = ["numpy>=1", 'scipy>=1; extra == "here"', 'numpy>=999; extra == "old"', 'no-such-package>=2,<3; extra == "none"',
                 "torch; extra == 'here'"]
        monkeypatch.setattr(info, "requires", lambda _: needs)
        found = collect()
        assert found["extras"] == {"here": {"missing": []}, "old": {"missing": ["numpy>=999"]},
                                   "none": {"missing": ["no-such-package<3,>=2"]}}
        assert set(found["versions"]) == {"python", "fuse4seg", "numpy"}
        assert "  none: missing no-such-package<3,>=2\n" in f"{to_text(found)}\n"

    def test_roots_and_models(self, untrained_phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        results = Path(shutil.copytree(untrained_phantom / "nnUNet_results", tmp_path / "nnUNet_results"))
        monkeypatch.setenv("nnUNet_results", str(results))
        monkeypatch.setenv("nnUNet_raw", str(tmp_path / "nowhere"))
        monkeypatch.delenv("nnUNet_preprocessed", raising=False)
        name = "Dataset990_Phantom/Fuse4SegTrainer__Fuse4SegPlans__2d"
        found = collect()
        assert found["roots"] == {"F4S_ROOT": None, "nnUNet_preprocessed": None,
                                  "nnUNet_raw": {"path": str(tmp_path / "nowhere"), "there": False, "datasets": []},
                                  "nnUNet_results": {"path": str(results), "there": True, "datasets": ["Dataset990_Phantom"]}}
        assert found["models"] == {name: {"folds": [0], "validated": [], "postprocessing": False}}
        (results / name / "postprocessing.json").touch()
        (results / name / "fold_0" / "validation").mkdir()
        assert collect()["models"] == {name: {"folds": [0], "validated": [0], "postprocessing": True}}

    def test_names_no_case(self, trained_phantom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("nnUNet_results", str(trained_phantom / "nnUNet_results"))
        monkeypatch.setenv("nnUNet_raw", str(trained_phantom / "nnUNet_raw"))
        assert "phantom_0" not in json.dumps(collect())


class TestText:
    def test_has_a_line_for_each_entry(self) -> None:
        assert to_text({"a": {"b": None, "c": True, "d": [1, 2], "e": {"f": 3, "g": []}}, "h": {}}) == (
            "a\n  b: not there\n  c: yes\n  d: 1 2\n  e: f 3, g none\nh\n  none")
