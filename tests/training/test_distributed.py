"""What must fit before several processes train together, and what each of them is told where it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from fuse4seg.errors import DeviceUnavailableError, Fuse4SegError, OptionError
from fuse4seg.leaders.u2fusion import U2Fusion
from fuse4seg.model_errors import LostRankError
from fuse4seg.ranks import is_first, rank
from fuse4seg.recipes.reading import changed, read_recipe
from fuse4seg.training import distributed
from fuse4seg.training.distributed import (
    agreed,
    by_rank,
    choose_own_device,
    of_whole_batches,
    require_distributable,
    require_equal_memory,
    require_shares,
    share_networks,
    tells_of_a_lost_rank,
)
from tests.ranks import results_of_ranks


class TestShares:
    @pytest.mark.parametrize(("batch", "ranks", "hypergradient"), [(8, 1, "gauss_newton"), (8, 4, "gauss_newton"),
                                                                  (6, 3, "gauss_newton"), (6, 6, "joint"), (3, 1, "joint")])
    def test_of_one_size_are_taken(self, batch: int, ranks: int, hypergradient: str) -> None:
        require_shares(changed(read_recipe("fuse4seg"), [f"bilevel.hypergradient={hypergradient}"]), batch, ranks=ranks)

    @pytest.mark.parametrize(("batch", "ranks", "hypergradient", "mend"), [
        (8, 8, "gauss_newton", "must get equally many samples, an even number for gauss_newton. Give 1 or 2 or 4, or"),
        (12, 4, "gauss_newton", "Give 1 or 2 or 3 or 6, or plan for more with f4s_plan_experiment -num_gpus 4."),
        (6, 4, "joint", "must get equally many samples. Give 1 or 2 or 3 or 6, or"),
        (2, 5, "none", "the plans' batch of 2 cannot be shared by 5, ")])
    def test_of_several_sizes_are_refused(self, batch: int, ranks: int, hypergradient: str, mend: str) -> None:
        recipe = changed(read_recipe("fuse4seg"), [f"bilevel.hypergradient={hypergradient}"])
        with pytest.raises(OptionError, match="^-num_gpus: the plans' batch of") as caught:
            require_shares(recipe, batch, ranks=ranks)
        assert mend in str(caught.value)

    def test_of_fusion_alone_need_no_halves(self) -> None:
        require_shares(read_recipe("fusion_alone"), 4, ranks=4)


class TestGPUs:
    def test_of_equal_memory_are_taken_whatever_their_drivers_keep(self) -> None:
        require_equal_memory([24_000_000_000, 23_600_000_000, 24_000_000_000])

    def test_of_different_memory_are_refused(self) -> None:
        with pytest.raises(OptionError, match="the GPU of rank 2 has 24.0 GB, that of rank 0 80.0 GB, .* CUDA_VISIBLE_DEVICES"):
            require_equal_memory([80_000_000_000, 80_000_000_000, 24_000_000_000])

    def test_must_be_as_many_as_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        with pytest.raises(OptionError, match="^-num_gpus: 4 GPUs are asked for, and 2 visible here. Give 2, or show more"):
            choose_own_device("cuda")

    def test_are_not_the_cpu_unless_that_was_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        with pytest.raises(OptionError, match="2 GPUs are asked for, and none is visible here. Give -device cpu"):
            choose_own_device(None)
        with pytest.raises(DeviceUnavailableError):
            choose_own_device("cuda")
        with pytest.raises(OptionError, match="-device mps"):
            choose_own_device("mps")
        assert choose_own_device("cpu") == torch.device("cpu")

    def test_are_one_for_each(self, monkeypatch: pytest.MonkeyPatch) -> None:
        chosen: list[torch.device] = []
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
        monkeypatch.setenv("LOCAL_RANK", "3")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        assert choose_own_device(None) == torch.device("cuda", 3)
        assert chosen == [torch.device("cuda", 3)]


class TestNetworks:
    def test_that_normalise_over_the_batch_are_refused_on_the_cpu(self) -> None:
        network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
        network.fusion = nn.Identity()
        for device, ranks in ((torch.device("cuda"), 2), (torch.device("cpu"), 1)):
            require_distributable(read_recipe("fuse4seg"), network, device, ranks=ranks)
        with pytest.raises(OptionError, match="normalise over the batch, which processes on the CPU cannot share"):
            require_distributable(read_recipe("fuse4seg"), network, torch.device("cpu"), ranks=2)

    def test_that_normalise_over_the_batch_do_so_over_all_ranks_on_gpus(self) -> None:
        network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
        weight = network[1].weight
        share_networks(SimpleNamespace(ranks=2, levels=SimpleNamespace(modules=lambda: [network])))
        assert isinstance(network[1], nn.SyncBatchNorm)
        assert network[1].weight is weight

    def test_that_are_taught_by_samples_that_have_both_images_are_refused(self) -> None:
        network = nn.Module()
        network.fusion = U2Fusion(2, conv_op=nn.Conv2d, strides=[1, 2])
        recipe = read_recipe("u2fusion")
        dropped = changed(recipe, ["training.modality_dropout=0.2"])
        for method, ranks in ((recipe, 2), (dropped, 1)):
            require_distributable(method, network, torch.device("cpu"), ranks=ranks)
        taught = "leader u2fusion is taught by the samples that have both images"
        with pytest.raises(OptionError, match=f"{taught}.*Set training.modality_dropout=0"):
            require_distributable(dropped, network, torch.device("cpu"), ranks=2)
        with pytest.raises(OptionError, match=f"{taught}.*number. Train in one.$"):
            require_distributable(recipe, network, torch.device("cpu"), ranks=2, incomplete=True)


class TestLostRank:
    @pytest.mark.parametrize(("said", "lost"), [
        ("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:5", True),
        ("Connection reset by peer", True), ("CUDA out of memory", False), ("shapes cannot be multiplied", False)])
    def test_is_told_from_other_failures(self, said: str, lost: bool) -> None:
        assert tells_of_a_lost_rank(RuntimeError(said)) is lost

    def test_of_torch_s_own_kind_is_one(self) -> None:
        assert tells_of_a_lost_rank(torch.distributed.DistBackendError("NCCL error"))


class TestAgreed:
    @pytest.fixture(scope="class")
    @classmethod
    def found(cls, start_process: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
        def fail(*at: int) -> Callable[[], str]:
            def make() -> str:
                if rank() in at:
                    raise OptionError("-x", "is wrong")
                return f"made {rank()}"
            return make

        def outcomes() -> list[str]:
            found = []
            for make, tell in ((fail(), lambda _: "epoch 0"), (fail(0, 1), str), (fail(1), str), (fail(0), str), (fail(), str)):
                try:
                    found.append(agreed(make, tell=tell))
                except Fuse4SegError as error:
                    found.append(f"{type(error).__name__} {'' if isinstance(error, LostRankError) else error}")
            outputs = of_whole_batches([{"loss": float(rank()), "tp_hard": torch.tensor([rank(), 2]).numpy()}])
            return [*found, str([outputs[0]["loss"], outputs[0]["tp_hard"].tolist()]), str(is_first())]

        return results_of_ranks(start_process, outcomes, 2, tmp_path_factory.mktemp("agreed"))

    def test_gives_each_what_it_made(self, found: list[list[str]]) -> None:
        assert [own[0] for own in found] == ["made 0", "made 1"]

    def test_ends_all_by_what_all_say_once(self, found: list[list[str]]) -> None:
        assert [own[1] for own in found] == ["OptionError -x: is wrong", "LostRankError "]

    def test_ends_all_by_what_one_says_and_names_it(self, found: list[list[str]]) -> None:
        assert [own[2] for own in found] == ["RanksError rank 1: -x: is wrong", "LostRankError "]
        assert [own[3] for own in found] == ["RanksError rank 0: -x: is wrong", "LostRankError "]

    def test_ends_all_that_begin_at_different_places(self, found: list[list[str]]) -> None:
        told = "begins at made {0}. Let all see the same results."
        assert found[0][4] == f"RanksError rank 0: {told.format(0)}\nrank 1: {told.format(1)}"

    def test_validation_is_that_of_the_whole_batch(self, found: list[list[str]]) -> None:
        assert [own[5] for own in found] == ["[0.5, [1, 4]]"] * 2


def test_what_ranks_say_is_said_once() -> None:
    assert by_rank(["no disk", None, "no disk", "no room"]) == "rank 0, 2: no disk\nrank 3: no room"


def test_alone_nothing_is_asked(tmp_path: Path) -> None:
    with distributed.joined("cpu"):
        assert agreed(lambda: "made") == "made"
