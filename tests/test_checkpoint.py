"""Checkpoints: plain data there and back, damage that is noticed, and code that is never run."""

from __future__ import annotations

import enum
import pickle
import resource
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn

from fuse4seg.checkpoint import (
    LeftOut,
    load_checkpoint,
    load_first_sound,
    load_without_numpy,
    require_same_plans,
    save_checkpoint,
    to_plain,
)
from fuse4seg.errors import UnwritableFolderError
from fuse4seg.model_errors import CheckpointError, CheckpointNotFoundError

CONTENT = {"weights": {"layer.weight": torch.arange(200.0)}, "epoch": 3, "rate": 1e-3, "names": ["T1", "FLAIR"],
           "best": None, "resumed": True}


class Colour(enum.IntEnum):
    RED = 1


class RunsCode:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return type(second) is dict and list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return type(first) is type(second) and len(first) == len(second) and all(map(same, first, second))
    return type(first) is type(second) and first == second


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """What a full disk does to a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestToPlain:
    def test_turns_what_nnu_net_keeps_into_plain_data(self) -> None:
        kept = {"logging": OrderedDict(dice=[np.float32(0.5), np.float64(0.25)], epochs=(np.int64(3), np.bool_(True))),
                "axes": {1}, "folder": Path("a") / "b", np.int64(5): np.str_("five"), "spacing": np.array([1.0, 0.5])}
        plain = to_plain(kept)
        assert same(plain, {"logging": {"dice": [0.5, 0.25], "epochs": (3, True)}, "axes": [1], "folder": "a/b",
                            5: "five", "spacing": torch.tensor([1.0, 0.5], dtype=torch.float64)})

    def test_copies_arrays(self) -> None:
        array = np.zeros(3)
        plain = to_plain(array)
        array += 1
        assert torch.equal(plain, torch.zeros(3, dtype=torch.float64))

    @pytest.mark.parametrize("value", [object(), Colour.RED, np.datetime64("2024-01-01"), np.longdouble(1), lambda: 0,
                                       np.array(["text"]), slice(1)])
    def test_refuses_what_could_not_be_loaded_again(self, value: object) -> None:
        with pytest.raises(TypeError):
            to_plain({"deep": [value]})


class TestSaveAndLoad:
    def test_gives_back_what_was_saved(self, tmp_path: Path) -> None:
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.LeakyReLU())
        optimiser = torch.optim.Adam(model.parameters())
        model(torch.rand(1, 1, 4, 4)).sum().backward()
        optimiser.step()
        content = {**CONTENT, "model": dict(model.state_dict()), "optimiser": optimiser.state_dict(),
                   "half": torch.ones(2).half(), "numbers": [2**70, -1, float("inf")], "bytes": b"\x00", "nested": ({}, [], ())}
        save_checkpoint(content, tmp_path / "model.pth")
        assert same(load_checkpoint(tmp_path / "model.pth"), to_plain(content))
        assert same(torch.load(tmp_path / "model.pth", weights_only=True), to_plain(content))

    def test_holds_numpy_as_tensors_and_numbers(self, tmp_path: Path) -> None:
        save_checkpoint({"scores": np.arange(3), "best": np.float32(0.5)}, tmp_path / "model.pth")
        assert same(load_checkpoint(tmp_path / "model.pth"), {"scores": torch.arange(3), "best": 0.5})

    def test_puts_tensors_where_asked(self, tmp_path: Path) -> None:
        save_checkpoint(CONTENT, tmp_path / "model.pth")
        loaded = load_checkpoint(tmp_path / "model.pth", device="meta")
        assert loaded["weights"]["layer.weight"].device.type == "meta"


class TestFailingSave:
    @pytest.fixture
    def old(self, tmp_path: Path) -> Path:
        save_checkpoint(CONTENT, tmp_path / "model.pth")
        return tmp_path / "model.pth"

    def assert_untouched(self, old: Path) -> None:
        assert same(load_checkpoint(old), CONTENT)
        assert list(old.parent.iterdir()) == [old]

    def test_of_a_full_disk_keeps_the_old_file(self, old: Path) -> None:
        with files_no_larger_than(10_000), pytest.raises(UnwritableFolderError, match=str(old.parent)):
            save_checkpoint({"weights": torch.zeros(100_000)}, old)
        self.assert_untouched(old)

    def test_of_something_that_is_not_plain_keeps_the_old_file(self, old: Path) -> None:
        with pytest.raises(TypeError, match="cannot hold object"):
            save_checkpoint({"weights": torch.zeros(3), "odd": object()}, old)
        self.assert_untouched(old)

    def test_that_is_interrupted_keeps_the_old_file(self, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(content: Any, stream: Any) -> None:
            stream.write(b"half of a checkpoint")
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(torch, "save", interrupted)
            with pytest.raises(KeyboardInterrupt):
                save_checkpoint(CONTENT, old)
        self.assert_untouched(old)

    def test_names_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(UnwritableFolderError, match="No such file or directory"):
            save_checkpoint(CONTENT, tmp_path / "nowhere" / "model.pth")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A checkpoint that is not damaged yet."""
    path = tmp_path_factory.mktemp("whole") / "model.pth"
    save_checkpoint(CONTENT, path)
    return path.read_bytes()


class TestBadFile:
    @given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
    @settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_with_a_flipped_bit_is_refused_or_says_the_same(self, whole: bytes, tmp_path: Path, position: float,
                                                            bit: int) -> None:
        damaged = bytearray(whole)
        damaged[int(position * len(damaged))] ^= 1 << bit
        path = tmp_path / "model.pth"
        path.write_bytes(damaged)
        try:
            loaded = load_checkpoint(path)
        except CheckpointError:
            return
        assert same(loaded, CONTENT)

    @given(part=st.floats(0, 1, exclude_max=True))
    @settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @example(0.0)
    @example(0.999)
    def test_that_ends_too_early_is_refused(self, whole: bytes, tmp_path: Path, part: float) -> None:
        path = tmp_path / "model.pth"
        path.write_bytes(whole[:int(part * len(whole))])
        with pytest.raises(CheckpointError, match="damaged"):
            load_checkpoint(path)

    def test_that_goes_on_after_its_end_is_refused_or_says_the_same(self, whole: bytes, tmp_path: Path) -> None:
        path = tmp_path / "model.pth"
        path.write_bytes(whole + b"more")
        try:
            loaded = load_checkpoint(path)
        except CheckpointError:
            return
        assert same(loaded, CONTENT)

    def test_with_a_changed_weight_is_refused(self, whole: bytes, tmp_path: Path) -> None:
        path = tmp_path / "model.pth"
        path.write_bytes(whole)
        weight = np.float32(123).tobytes()
        assert path.read_bytes().count(weight) == 1
        path.write_bytes(path.read_bytes().replace(weight, np.float32(-123).tobytes()))
        with pytest.raises(CheckpointError, match="record .*/data/0 does not match its checksum"):
            load_checkpoint(path)

    @pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps({"epoch": 3})])
    def test_that_is_something_else_is_refused(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "model.pth"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged, or not plain data .*Copy it again"):
            load_checkpoint(path)

    def test_that_holds_something_else_is_refused(self, tmp_path: Path) -> None:
        torch.save([1], tmp_path / "model.pth")
        with pytest.raises(CheckpointError, match="is no checkpoint: it holds a list. Copy it again, or give one that f4s_train"):
            load_checkpoint(tmp_path / "model.pth")

    @pytest.mark.parametrize("zipped", [True, False])
    def test_that_would_run_code_is_refused_and_does_not_run_it(self, tmp_path: Path, zipped: bool) -> None:
        path, mark = tmp_path / "model.pth", tmp_path / "mark"
        malicious = {"weights": torch.zeros(2), "trap": RunsCode(mark)}
        torch.save(malicious, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match="not plain data"):
            load_checkpoint(path)
        assert not mark.exists()
        torch.load(path, weights_only=False)
        assert mark.exists()  # so the trap was one

    def test_message_is_one_line(self, tmp_path: Path) -> None:
        torch.save({"trap": RunsCode(tmp_path / "mark")}, tmp_path / "model.pth")
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(tmp_path / "model.pth")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["model.pth", "."])
    def test_that_is_not_there_is_named_with_the_mend(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(CheckpointNotFoundError, match="does not exist. Run f4s_train."):
            load_checkpoint(tmp_path / name, mend="Run f4s_train.")


class TestPreviousCheckpoint:
    @pytest.fixture
    def saved_twice(self, tmp_path: Path) -> list[Path]:
        path = tmp_path / "latest.pth"
        for epoch in (1, 2, 3):
            save_checkpoint({"epoch": epoch}, path, keep_previous=True)
        return [path, tmp_path / "latest_previous.pth"]

    def test_is_kept(self, saved_twice: list[Path]) -> None:
        assert [load_checkpoint(path)["epoch"] for path in saved_twice] == [3, 2]
        assert sorted(saved_twice[0].parent.iterdir()) == saved_twice

    def test_is_kept_when_the_disk_is_full(self, saved_twice: list[Path]) -> None:
        with files_no_larger_than(10_000), pytest.raises(UnwritableFolderError):
            save_checkpoint({"weights": torch.zeros(100_000)}, saved_twice[0], keep_previous=True)
        assert [load_checkpoint(path)["epoch"] for path in saved_twice] == [3, 2]

    def test_is_not_used_while_the_latest_is_sound(self, saved_twice: list[Path], caplog: pytest.LogCaptureFixture) -> None:
        assert load_first_sound(saved_twice) == (saved_twice[0], {"epoch": 3})
        assert caplog.text == ""

    def test_is_used_with_a_warning_when_the_latest_is_damaged(self, saved_twice: list[Path],
                                                               caplog: pytest.LogCaptureFixture) -> None:
        saved_twice[0].write_bytes(saved_twice[0].read_bytes()[:-1])
        assert load_first_sound(saved_twice) == (saved_twice[1], {"epoch": 2})
        assert f"{saved_twice[0]}: damaged" in caplog.text
        assert f"Going on from {saved_twice[1]} instead" in caplog.text

    def test_that_is_damaged_too_is_an_error_about_the_latest(self, saved_twice: list[Path]) -> None:
        for path in saved_twice:
            path.write_bytes(b"")
        with pytest.raises(CheckpointError, match=f"^{saved_twice[0]}: damaged"):
            load_first_sound(saved_twice)


class TestRequireSamePlans:
    CONFIGURATION = {"architecture": {"arch_kwargs": {"strides": [[1, 1], [2, 2]]}}, "patch_size": [64, 64], "batch_size": 4,
                     "spacing": [1.0, 1.0], "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [True]}

    def plans(self, **changed: Any) -> dict[str, Any]:
        return {"configurations": {"2d": {**self.CONFIGURATION, **changed}, "2d_large": {"inherits_from": "2d", "batch_size": 8}}}

    def state(self, configuration: str = "2d", **changed: Any) -> dict[str, Any]:
        return {"init_args": {"plans": self.plans(**changed), "configuration": configuration}}

    @pytest.mark.parametrize("configuration", ["2d", "2d_large"])
    def test_accepts_the_plans_it_was_trained_with_whatever_else_they_say(self, configuration: str) -> None:
        # Tuples come out of a file as lists.
        state = self.state(configuration, patch_size=(64, 64))
        require_same_plans(state, Path("model.pth"), {**self.plans(data_identifier="Mine_2d"), "plans_name": "Mine"})

    @pytest.mark.parametrize(("changed", "named"), [
        ({"patch_size": [32, 64]}, "patch_size of 2d"), ({"batch_size": 2, "spacing": [1.0, 2.0]}, "batch_size, spacing of 2d"),
        ({"architecture": {"arch_kwargs": {"strides": [[1, 1], [1, 2]]}}}, "architecture of 2d")])
    def test_names_what_differs(self, changed: dict[str, Any], named: str) -> None:
        with pytest.raises(CheckpointError, match=f"^model.pth: does not fit these plans: {named} differs"):
            require_same_plans(self.state(), Path("model.pth"), self.plans(**changed))

    def test_names_a_configuration_that_the_plans_lack(self) -> None:
        plans = self.plans()
        plans["configurations"].pop("2d_large")
        with pytest.raises(CheckpointError, match="was trained with 2d_large, which these plans lack"):
            require_same_plans(self.state("2d_large"), Path("model.pth"), plans)

    @pytest.mark.parametrize("state", [{}, {"init_args": None}, {"init_args": {"configuration": "2d"}},
                                       {"init_args": {"configuration": "3d", "plans": {"configurations": {}}}}])
    def test_names_a_checkpoint_that_does_not_say(self, state: dict[str, Any]) -> None:
        with pytest.raises(CheckpointError, match="does not say what it was trained with"):
            require_same_plans(state, Path("model.pth"), self.plans())


class TestNumbersOfNumpy:
    def test_are_left_out_where_that_is_asked_for_and_refused_elsewhere(self, tmp_path: Path) -> None:
        path = tmp_path / "stock.pth"
        numbers = [np.float64(0.5), np.float32(0.5), np.int64(3), np.arange(3.0), np.dtype("f8")]
        torch.save({**CONTENT, "numbers": numbers}, path)
        for _ in range(2):
            found = load_without_numpy(path, mend="")
            assert all(isinstance(number, LeftOut) for number in found.pop("numbers"))
            assert same(found, CONTENT)
            with pytest.raises(CheckpointError, match="not plain data"):
                load_checkpoint(path)

    def test_do_not_let_code_in(self, tmp_path: Path) -> None:
        for content in (RunsCode(tmp_path / "mark"), np.array([RunsCode(tmp_path / "mark")])):
            torch.save({"x": content}, tmp_path / "hostile.pth")
            with pytest.raises(CheckpointError, match="not plain data"):
                load_without_numpy(tmp_path / "hostile.pth", mend="")
        assert not (tmp_path / "mark").exists()
