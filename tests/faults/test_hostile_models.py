"""Trained models of strangers, put into the results folder by hand: pickles with code, and plans that name it."""

from __future__ import annotations

import functools
import json
import os
import pickle
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fuse4seg.cli import build_brats_fuse, export_model, fuse, predict, train
from fuse4seg.model_errors import CheckpointError
from fuse4seg.training.origin import read_origin

MODEL = Path("nnUNet_results", "Dataset990_Phantom", "Fuse4SegTrainer__Fuse4SegPlans__2d")
CHECKPOINT, MARK, MODULE = "checkpoint_final.pth", "ran.txt", "canary_of_hostile_models"
State = dict[str, Any]


class Reduces:
    """Is unpickled by calling something."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class SetsState:
    """Runs code when its state is set."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __setstate__(self, state: State) -> None:
        state["mark"].touch()


class Weights(torch.Tensor):
    """A tensor of a class that has to be imported."""


def shell(mark: Path) -> Reduces:
    return Reduces(os.system, f"touch {mark}")


def saved(content: Callable[[State, Path], Any], **how: Any) -> Callable[[State, Path, Path], None]:
    return lambda state, mark, path: torch.save(content(state, mark), path, **how)


def with_entry(name: str, value: Callable[[Path], Any]) -> Callable[[State, Path, Path], None]:
    return saved(lambda state, mark: {**state, name: value(mark)})


def plain_pickle(state: State, mark: Path, path: Path) -> None:
    path.write_bytes(pickle.dumps({**state, "logging": shell(mark)}))


def torch_script(_: State, mark: Path, path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path)


def code_by_opcodes(state: State, mark: Path, path: Path) -> None:
    """Not what any pickler writes: the name of a function, a string, a call."""
    torch.save(state, path)
    rewrite(path, {"data.pkl": b"cos\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR."})


def compressed_records(state: State, _: Path, path: Path) -> None:
    torch.save(state, path)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def rewrite(path: Path, changed: dict[str, bytes]) -> None:
    """Replace records of a checkpoint, by the ends of their names."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, next((new for end, new in changed.items() if name.endswith(end)), data))


def forged_dtype() -> np.dtype:
    """As stock nnU-Net's checkpoints hold; with another state it would make NumPy take numbers for addresses."""
    return np.dtype("float64")


PICKLES: dict[str, Callable[[State, Path, Path], None]] = {
    "shell in an entry": with_entry("logging", shell),
    "shell in place of all": saved(lambda _, mark: shell(mark)),
    "exec": with_entry("logging", lambda mark: Reduces(exec, f"open({str(mark)!r}, 'w')")),
    "eval in the weights": saved(lambda state, mark: {**state, "network_weights": {
        **state["network_weights"], "x": Reduces(eval, f"open({str(mark)!r}, 'w')")}}),
    "method of a path": with_entry("recipe", lambda mark: Reduces(Path.touch, mark)),
    "partial": with_entry("recipe", lambda mark: Reduces(functools.partial(os.system, f"touch {mark}"))),
    "state that runs": with_entry("recipe", SetsState),
    "unsafe load inside": with_entry("logging", lambda mark: Reduces(torch.load, str(mark))),
    "import by name": with_entry("logging", lambda mark: Reduces(__import__, MODULE)),
    "code in the old format": saved(lambda state, mark: {**state, "logging": shell(mark)},
                                    _use_new_zipfile_serialization=False),
    "plain pickle": plain_pickle,
    "opcodes": code_by_opcodes,
    "TorchScript": torch_script,
    "compressed records": compressed_records,
    "tensor of another class": saved(lambda state, _: {**state, "network_weights": {
        name: weight.as_subclass(Weights) for name, weight in state["network_weights"].items()}}),
    "NumPy's types": with_entry("logging", lambda _: forged_dtype()),
    "a list": saved(lambda state, _: [state]),
    "weights that are none": saved(lambda state, _: {**state, "network_weights": dict.fromkeys(state["network_weights"], 1)}),
    "no weights": saved(lambda state, _: {name: value for name, value in state.items() if name != "network_weights"}),
}
#: What plans can name, by the path through their JSON, and under what error.
PLANS: dict[str, tuple[list[str], Any]] = {
    "network": (["network_class_name"], f"{MODULE}.Network"),
    "network of the system": (["network_class_name"], "os.system"),
    "block": (["arch_kwargs", "conv_op"], f"{MODULE}.Network"),
    "follower": (["arch_kwargs", "follower", "network_class_name"], f"{MODULE}.Network"),
    "block of the follower": (["arch_kwargs", "follower", "arch_kwargs", "nonlin"], f"{MODULE}.Network"),
    "function": (["arch_kwargs", "follower", "network_class_name"], "torch.nn.modules.module.torch.load"),
}


@pytest.fixture
def place(untrained_phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with results of this test's own in ``roots``, and a module on the path that leaves a mark when imported."""
    for folder in ("modules", "outside"):
        (tmp_path / folder).mkdir()
    (tmp_path / "roots").mkdir()
    for kind in ("raw", "preprocessed"):
        (tmp_path / "roots" / f"nnUNet_{kind}").symlink_to(untrained_phantom / f"nnUNet_{kind}")
    shutil.copytree(untrained_phantom / "nnUNet_results", tmp_path / "roots" / "nnUNet_results")
    (tmp_path / "modules" / f"{MODULE}.py").write_text(
        f"from pathlib import Path\nfrom torch.nn import Conv2d as Network\nPath({str(tmp_path / 'outside' / MARK)!r}).touch()\n")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


@pytest.fixture
def state(place: Path) -> State:
    return torch.load(place / "roots" / MODEL / "fold_0" / CHECKPOINT, weights_only=True)


def flags_of(place: Path, command: Any) -> list[str]:
    images = place / "roots" / "nnUNet_raw" / "Dataset990_Phantom" / "imagesTs"
    model, output = place / "roots" / MODEL, place / "out"
    return {predict: ["-i", str(images), "-o", str(output), "-device", "cpu"],
            fuse: ["-i", str(images), "-o", str(output), "-m", str(model), "-device", "cpu"],
            export_model: ["-m", str(model), "-o", str(place / "model.zip")],
            build_brats_fuse: ["-i", str(images.parent), "-o", str(output), "-m", str(model), "-device", "cpu", "-np", "1"],
            train: ["990", "2d", "0", "--c", "-device", "cpu"]}[command]


def assert_refused(command: Any, place: Path, capsys: pytest.CaptureFixture[str]) -> str:
    before = sorted(place.rglob("*"))
    assert command.main([*flags_of(place, command), "--root", str(place / "roots")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert sorted(place.rglob("*")) == before
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    assert MODULE not in sys.modules
    return lines[-1]


def hide_code(place: Path, state: State) -> Path:
    path = place / "roots" / MODEL / "fold_0" / CHECKPOINT
    torch.save({**state, "logging": shell(place / "outside" / MARK)}, path)
    return path


def name_in_plans(place: Path, kind: str) -> Path:
    way, name = PLANS[kind]
    path = place / "roots" / MODEL / "plans.json"
    plans = json.loads(path.read_text())
    inner = plans["configurations"]["2d"]["architecture"]
    for step in way[:-1]:
        inner = inner[step]
    inner[way[-1]] = name
    # By this word the model is found at all.
    plans["fuse4seg"]["note"] = "FuseThenSegment"
    path.write_text(json.dumps(plans))
    return path


class TestHostileCheckpoint:
    @pytest.mark.parametrize("kind", PICKLES)
    def test_is_refused(self, kind: str, place: Path, state: State, capsys: pytest.CaptureFixture[str]) -> None:
        path = place / "roots" / MODEL / "fold_0" / CHECKPOINT
        PICKLES[kind](state, place / "outside" / MARK, path)
        assert str(path) in assert_refused(predict, place, capsys)

    @pytest.mark.parametrize("command", [fuse, export_model, build_brats_fuse, train], ids=lambda module: module.__name__)
    def test_is_refused_by_every_command_that_loads_one(self, command: Any, place: Path, state: State,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
        assert str(hide_code(place, state)) in assert_refused(command, place, capsys)

    def test_is_no_beginning_of_a_training(self, place: Path, state: State) -> None:
        """Where NumPy's numbers, and weights that are none, are passed over."""
        path = place / "outside" / "origin.pth"
        for kind in PICKLES.keys() - {"NumPy's types", "weights that are none"}:
            PICKLES[kind](state, place / "outside" / MARK, path)
            with pytest.raises(CheckpointError, match=re.escape(str(path))):
                read_origin(path)
            assert MODULE not in sys.modules
        assert list((place / "outside").iterdir()) == [path]

    def test_runs_its_code_with_trust_alone(self, place: Path, state: State) -> None:
        """By which the canary is known to sing."""
        hide_code(place, state)
        assert predict.main([*flags_of(place, predict), "--root", str(place / "roots"), "--trust"]) == 0
        assert (place / "outside" / MARK).is_file()


class TestHostilePlans:
    @pytest.mark.parametrize("kind", PLANS)
    def test_are_refused(self, kind: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = name_in_plans(place, kind)
        error = assert_refused(predict, place, capsys)
        assert str(path) in error
        assert PLANS[kind][1] in error
        assert "--trust" in error

    @pytest.mark.parametrize("command", [fuse, export_model, build_brats_fuse], ids=lambda module: module.__name__)
    def test_are_refused_by_every_command_that_reads_them(self, command: Any, place: Path,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
        assert str(name_in_plans(place, "block")) in assert_refused(command, place, capsys)

    def test_import_what_they_name_with_trust_alone(self, place: Path, state: State) -> None:
        """The module on the path holds PyTorch's convolution under another name."""
        path = name_in_plans(place, "block")
        state["init_args"]["plans"] = json.loads(path.read_text())
        torch.save(state, place / "roots" / MODEL / "fold_0" / CHECKPOINT)
        assert predict.main([*flags_of(place, predict), "--root", str(place / "roots"), "--trust"]) == 0
        assert (place / "outside" / MARK).is_file()
        del sys.modules[MODULE]


class TestStockCheckpoint:
    """As nnU-Net's own trainer leaves one: with NumPy's scalars among its curves."""

    def test_predicts_the_same_with_trust_and_asks_for_it(self, place: Path, state: State,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
        flags = [*flags_of(place, predict), "--root", str(place / "roots")]
        assert predict.main(flags) == 0
        plain = [path.read_bytes() for path in sorted((place / "out").rglob("*.nii.gz"))]
        shutil.rmtree(place / "out")
        del state["recipe"]
        torch.save({**state, "_best_ema": np.float64(0.5), "logging": {"mean_fg_dice": [np.float32(0.5)]}},
                   place / "roots" / MODEL / "fold_0" / CHECKPOINT)
        capsys.readouterr()
        assert "--trust" in assert_refused(predict, place, capsys)
        assert predict.main([*flags, "--trust"]) == 0
        assert [path.read_bytes() for path in sorted((place / "out").rglob("*.nii.gz"))] == plain
        assert len(plain) == 3

    def test_is_cleaned_by_a_trusting_export(self, place: Path, state: State) -> None:
        torch.save({**state, "_best_ema": np.float64(0.5)}, place / "roots" / MODEL / "fold_0" / CHECKPOINT)
        assert export_model.main([*flags_of(place, export_model), "--trust"]) == 0
        assert b"numpy" not in (place / "model.zip").read_bytes()
