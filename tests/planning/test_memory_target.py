"""The memory to plan for: asked for, found on a GPU, or neither."""

from __future__ import annotations

import pytest
import torch

from fuse4seg.errors import OptionError
from fuse4seg.planning import memory_target
from fuse4seg.planning.memory_target import GPU, find_target, visible_gpu


@pytest.fixture
def small_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of 10 GB with 6 GB free."""
    monkeypatch.setattr(memory_target, "visible_gpu", lambda: GPU("Small GPU", total=10.0, free=6.0))


class TestWithoutGPU:
    @pytest.fixture(autouse=True)
    def no_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory_target, "visible_gpu", lambda: None)

    def test_is_the_usual_one(self) -> None:
        assert find_target(None, otherwise=24) == (24, None)

    def test_is_what_was_asked_for(self) -> None:
        assert find_target(141, otherwise=8) == (141, None)


class TestOnGPU:
    def test_is_all_but_the_reserve(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory_target, "visible_gpu", lambda: GPU("Some GPU", total=10.0, free=9.6))
        assert find_target(None, otherwise=8) == (9.0, "Some GPU")

    @pytest.mark.usefixtures("small_gpu")
    def test_is_what_was_asked_for_where_that_fits(self) -> None:
        assert find_target(6, otherwise=8) == (6, "Small GPU")

    @pytest.mark.usefixtures("small_gpu")
    @pytest.mark.parametrize("asked", [9.5, 24])
    def test_smaller_than_asked_for_says_what_would_fit(self, asked: float) -> None:
        with pytest.raises(OptionError, match=rf"{asked:g} GB is more than Small GPU can give\. At most 9 of its 10\.0 GB"):
            find_target(asked, otherwise=8)

    @pytest.mark.usefixtures("small_gpu")
    @pytest.mark.parametrize("asked", [None, 8])
    def test_that_others_have_filled_says_what_would_fit(self, asked: float | None) -> None:
        with pytest.raises(OptionError, match=r"Small GPU has 6\.0 of 10\.0 GB free.*or give at most 6\."):
            find_target(asked, otherwise=8)

    @pytest.mark.parametrize(("free", "fitting"), [(6.97, "6.9"), (0.3, "0.3")])
    def test_never_rounds_up_what_would_fit(self, monkeypatch: pytest.MonkeyPatch, free: float, fitting: str) -> None:
        monkeypatch.setattr(memory_target, "visible_gpu", lambda: GPU("Some GPU", total=10.0, free=free))
        with pytest.raises(OptionError, match=rf"at most {fitting}\."):
            find_target(8, otherwise=8)


class TestVisibleGPU:
    def test_is_none_without_cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert visible_gpu() is None

    def test_is_what_cuda_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2_000_000_000, 8_500_000_000))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
        assert visible_gpu() == GPU("Some GPU", total=8.5, free=2.0)
