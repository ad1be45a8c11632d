"""Ranks: two of them make of their halves of a batch what one makes of the whole, loss by loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor, nn

from fuse4seg import ranks
from fuse4seg.colour import luma
from fuse4seg.leaders.ddcgan import DualDiscriminators
from fuse4seg.leaders.didfuse import DIDFuse
from fuse4seg.leaders.tardal import TargetAndDetail
from fuse4seg.losses.chroma import chroma_loss
from fuse4seg.losses.decomposition import decomposition_loss
from fuse4seg.losses.fusion import OF_EACH, OF_THE_STRONGEST
from fuse4seg.networks.leader import Adversary
from fuse4seg.steps.adversary import OnePerModality, teach
from fuse4seg.training.distributed import share_loss
from tests.ranks import results_of_ranks

SAMPLES, SHAPE = 4, (16, 18)
IGNORED = 3
Loss = Callable[[Tensor, range], Tensor]
#: The first half of the samples has all modalities, the second lacks one entirely, and another in part.
PRESENT = torch.tensor([[True, True, True], [True, True, True], [True, False, False], [False, False, True]])


def images(*shape: int, seed: int) -> Tensor:
    return torch.rand(SAMPLES, *shape, generator=torch.Generator().manual_seed(seed))


SOURCES = images(3, *SHAPE, seed=0) * PRESENT.view(SAMPLES, 3, 1, 1)
#: More healthy tissue in the first half than in the second, of which one sample has none.
TISSUE = (images(1, *SHAPE, seed=1) < torch.tensor([0.9, 0.7, 0.1, 0.0]).view(-1, 1, 1, 1)).float()
LABELS = (3 * images(1, *SHAPE, seed=2)).long()
#: All of the second half is without labels, and much of the first.
KNOWN = images(1, *SHAPE, seed=3) < torch.tensor([0.9, 0.3, 0.0, 0.0]).view(-1, 1, 1, 1)


def of(places: range, *whole: Tensor) -> list[Tensor]:
    return [part[places.start:places.stop] for part in whole]


def on_luma(loss: Callable[..., Tensor], *, with_presence: bool) -> Loss:
    def of_images(made: Tensor, places: range) -> Tensor:
        sources, present = of(places, SOURCES, PRESENT)
        return loss(luma(made), sources, **({"present": present} if with_presence else {}))
    return of_images


def adversarial(make: Callable[[], Adversary], side: str, present: Tensor | None) -> Loss:
    def of_images(made: Tensor, places: range) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            adversary = make()
        return getattr(adversary, side)(luma(made), *of(places, SOURCES), None if present is None else of(places, present)[0])
    return of_images


def decomposition(made: Tensor, places: range) -> Tensor:
    streams = made.unsqueeze(2)
    return decomposition_loss(streams + 0.3 * streams.flip(1), streams.square(), present=of(places, PRESENT)[0])


def whole_decomposition(made: Tensor, places: range) -> Tensor:
    return decomposition_loss(made.unsqueeze(2), made.unsqueeze(2).square())


def didfuse(made: Tensor, places: range) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        leader = DIDFuse(2, conv_op=nn.Conv2d, strides=[1, 2]).eval()
    return sum(leader.pretraining_losses(made[:, :2]).values())


def segmentation(made: Tensor, places: range) -> Tensor:
    loss = DC_and_CE_loss({"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}, {}, ignore_label=IGNORED,
                          weight_ce=0.7, dice_class=MemoryEfficientSoftDiceLoss)
    share_loss(loss, ignored=True, regions=False)
    return loss(made, torch.where(*of(places, KNOWN, LABELS), IGNORED))


def regions(made: Tensor, places: range) -> Tensor:
    loss = DC_and_BCE_loss({}, {"batch_dice": True, "smooth": 1e-5, "do_bg": True, "ddp": False}, use_ignore_label=True,
                           dice_class=MemoryEfficientSoftDiceLoss)
    share_loss(loss, ignored=True, regions=True)
    labels, known = of(places, LABELS, KNOWN)
    return loss(made, torch.cat([labels > 0, labels > 1, labels == 0, ~known], dim=1))


LOSSES: dict[str, Loss] = {
    **{name: on_luma(loss, with_presence=False) for name, loss in OF_THE_STRONGEST.items()},
    **{name: on_luma(loss, with_presence=True) for name, loss in OF_EACH.items()},
    **{f"{name} of all": on_luma(loss, with_presence=False) for name, loss in OF_EACH.items()},
    **{f"{make.__name__} {side} {present is None}": adversarial(make_adversary, side, present)
       for make, make_adversary in ((OnePerModality, lambda: OnePerModality(3, axes=2)),
                                    (TargetAndDetail, lambda: TargetAndDetail(nn.Conv2d, reference=0)),
                                    (DualDiscriminators, lambda: DualDiscriminators(nn.Conv2d, reference=1).eval()))
       for side in ("generator_loss", "discriminator_loss") for present in (PRESENT, None)},
    "a modality that nobody has": adversarial(lambda: OnePerModality(3, axes=2), "generator_loss",
                                              PRESENT & torch.tensor([True, True, False])),
    "chroma": lambda made, places: chroma_loss(made, *of(places, TISSUE)),
    "decomposition": decomposition, "decomposition of all": whole_decomposition, "didfuse": didfuse,
    "cross-entropy and Dice of labels": segmentation, "cross-entropy and Dice of regions": regions}


def losses_and_gradients() -> dict[str, tuple[float, Tensor]]:
    """Of this rank's samples."""
    found = {}
    for name, loss in LOSSES.items():
        places = ranks.own_slice(SAMPLES)
        made, = of(places, images(3, *SHAPE, seed=9))
        made.requires_grad_()
        value = loss(made, places)
        found[name] = value.item(), torch.autograd.grad(value, made)[0]
    return found


@pytest.fixture(scope="module")
def of_two(start_process: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[float, Tensor]]]:
    return results_of_ranks(start_process, losses_and_gradients, 2, tmp_path_factory.mktemp("losses"))


@pytest.fixture(scope="module")
def of_one() -> dict[str, tuple[float, Tensor]]:
    return losses_and_gradients()


class TestLosses:
    @pytest.mark.parametrize("name", LOSSES)
    def test_of_two_ranks_average_to_that_of_the_whole_batch(self, name: str, of_one: dict[str, Any], of_two: list[Any]) -> None:
        value, gradient = of_one[name]
        values, gradients = zip(*(found[name] for found in of_two), strict=True)
        assert sum(values) / 2 == pytest.approx(value, rel=1e-5, abs=1e-6)
        torch.testing.assert_close(torch.cat(gradients) / 2, gradient, rtol=1e-4, atol=1e-7)
        assert gradient.abs().max() > 0

    @pytest.mark.parametrize("name", ["ssim", "chroma", "decomposition", "OnePerModality generator_loss False",
                                      "cross-entropy and Dice of labels", "TargetAndDetail discriminator_loss False"])
    def test_of_halves_by_themselves_do_not(self, name: str, of_one: dict[str, Any]) -> None:
        """So the test above can fail."""
        made, alone = images(3, *SHAPE, seed=9), []
        for places in (range(0, 2), range(2, 4)):
            alone.append(LOSSES[name](*of(places, made), places).item())
        assert sum(alone) / 2 != pytest.approx(of_one[name][0], rel=1e-5, abs=1e-6)


class TestRanks:
    @pytest.fixture(scope="class")
    @classmethod
    def found(cls, start_process: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
        def ask() -> dict[str, Any]:
            rank = ranks.rank()
            tensors = [torch.full((3, 2), float(rank)), torch.full((), rank + 2.0, dtype=torch.float64), torch.ones(5) * rank]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ranks, "BUCKET", 20)
                means = ranks.averaged(tensors)
            taught = nn.Parameter(torch.zeros(2))
            teach(torch.optim.SGD([taught], lr=1.0), (taught * torch.tensor([1.0, 2.0 * rank])).sum())
            copied = torch.full((2,), float(rank))
            ranks.take_from_first([copied])
            return {"means": means, "slice": ranks.own_slice(6), "taught": taught.detach(), "first": ranks.is_first(),
                    "report": ranks.mean_report({"loss": torch.tensor(float(rank)), "ratio": torch.tensor(3.0)}),
                    "largest": ranks.largest(-rank, rank, 15 * (1 - rank)), "each": ranks.of_each(f"rank {rank}"),
                    "copied": copied, "sum": ranks.summed(torch.tensor([rank, 1])), "of_first": ranks.of_first(f"rank {rank}"),
                    "mean_of_all": ranks.mean_of_all(torch.full((1 + 2 * rank,), float(rank)))}

        return results_of_ranks(start_process, ask, 2, tmp_path_factory.mktemp("ranks"))

    def test_average_tensors_of_any_shape_and_type(self, found: list[dict[str, Any]]) -> None:
        for own in found:
            wanted = [torch.full((3, 2), 0.5), torch.tensor(2.5, dtype=torch.float64), torch.full((5,), 0.5)]
            for mean, tensor in zip(own["means"], wanted, strict=True):
                torch.testing.assert_close(mean, tensor, rtol=0, atol=0)

    def test_share_a_batch_in_equal_parts_one_after_the_other(self, found: list[dict[str, Any]]) -> None:
        assert [own["slice"] for own in found] == [range(0, 3), range(3, 6)]

    def test_report_means_and_agree_on_the_largest(self, found: list[dict[str, Any]]) -> None:
        assert all(own["report"] == {"loss": 0.5, "ratio": 3.0} for own in found)
        assert all(own["largest"] == [0, 1, 15] for own in found)

    def test_tell_one_another_anything(self, found: list[dict[str, Any]]) -> None:
        assert [own["first"] for own in found] == [True, False]
        for own in found:
            assert own["each"] == ["rank 0", "rank 1"]
            assert own["of_first"] == "rank 0"
            assert own["copied"].tolist() == [0.0, 0.0]
            assert own["sum"].tolist() == [1, 2]

    def test_teach_their_discriminators_alike(self, found: list[dict[str, Any]]) -> None:
        assert [own["taught"].tolist() for own in found] == [[-1.0, -1.0]] * 2

    def test_of_means_over_all_values_each_has_its_part(self, found: list[dict[str, Any]]) -> None:
        """One value 0 here and three values 1 there have the mean 3/4."""
        assert sum(own["mean_of_all"].item() for own in found) / 2 == pytest.approx(0.75)


class TestAlone:
    def test_everything_stays_as_it_is(self) -> None:
        tensor = torch.rand(3, requires_grad=True)
        assert ranks.over_ranks(tensor) is tensor
        assert ranks.summed(tensor) is tensor
        assert ranks.averaged([tensor])[0] is tensor
        assert (ranks.world_size(), ranks.rank(), ranks.is_first(), ranks.own_slice(5)) == (1, 0, True, range(5))
        assert ranks.largest(3, 4) == [3, 4]
        assert (ranks.of_each("a"), ranks.of_first("a")) == (["a"], "a")
