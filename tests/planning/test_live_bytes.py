"""Bytes that are counted without being there: those of the CPU, and those of CUDA's mixed precision."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.planning.live_bytes import FlashAttention, HalfPrecision, LiveBytes, count_bytes
from fuse4seg.recipes.reading import changed, read_recipe
from fuse4seg.steps.bilevel import BilevelStep, Level
from fuse4seg.steps.hypergradients import ESTIMATORS

MakeModel = Callable[..., FuseThenSegment]
KILOBYTE, DOUBLE = 1024, 8


def whole_step(model: FuseThenSegment, hypergradient: str) -> tuple[Callable[[], object], list[torch.Tensor]]:
    """A bi-level step of a batch of 4 x 2 x 48 x 64 without its report, and the tensors that are there before."""
    device = next(model.parameters()).device
    leader, follower = list(model.fusion.parameters()), list(model.segmentation.parameters())
    recipe = changed(read_recipe("fuse4seg"), [f"bilevel.hypergradient={hypergradient}"])
    step = BilevelStep(model, cross_entropy, leader=Level(leader, torch.optim.Adam(leader, 1e-3)),
                       follower=Level(follower, torch.optim.SGD(follower, 1e-2, momentum=0.99)),
                       settings=recipe.bilevel, losses=recipe.losses)
    batch, targets = torch.ones(4, 2, 48, 64, device=device), torch.zeros(4, 48, 64, dtype=torch.long, device=device)

    def compute() -> None:
        # All that fails on the meta device is the report, of numbers.
        with suppress(RuntimeError) if device.type == "meta" else nullcontext():
            step(batch, targets)
        assert all(parameter.grad is None for parameter in model.parameters())
        for level in (step.leader, step.follower):
            assert level.optimiser.state

    return compute, [*model.parameters(), *model.buffers(), batch, targets]


def allocated(compute: Callable[[], object]) -> int:
    """What PyTorch's CPU allocator has handed out and not got back when ``compute`` is done, by its own record."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        kept = compute()
    assert kept is not None
    return sum(event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]")


class TestLiveBytes:
    def test_counts_what_is_alive_and_the_most_that_was(self) -> None:
        with LiveBytes() as count:
            first = torch.ones(KILOBYTE // 4)
            second = first + 1
            assert count.live == 2 * KILOBYTE
            del first
            assert (count.live, count.peak) == (KILOBYTE, 2 * KILOBYTE)
        assert second.sum() == KILOBYTE // 2

    def test_counts_views_and_what_is_changed_in_place_once(self) -> None:
        with LiveBytes() as count:
            kept = torch.ones(KILOBYTE // 4)
            kept.view(2, -1).add_(1)
            assert kept[::2].sum() > 0
            assert count.live == KILOBYTE

    def test_does_not_count_what_was_there_before(self) -> None:
        before = torch.ones(KILOBYTE // 4)
        with LiveBytes([before]) as count:
            before.add_(1)
        assert count.peak == 0

    def test_remembers_no_type_stride_or_order_that_differs(self) -> None:
        """What operations give on the meta device is looked up; each of these is a call of its own, and all come twice."""
        for _ in range(2):
            with LiveBytes():
                image = torch.empty(2, 3, 4, dtype=torch.int32, device="meta")
                turned = torch.empty(4, 3, 2, dtype=torch.int32, device="meta").permute(2, 1, 0)
                assert [(image * factor).dtype for factor in (2, 2.0, True)] == [torch.int32, torch.float32, torch.int32]
                assert (image + 1).stride() == (12, 4, 1)
                assert (turned + 1).stride() == (1, 2, 6)
                assert (turned[:, 1:] + 1).shape == (2, 2, 4)
                assert [part.shape for part in (image.sum(1), image.sum((0, 2)))] == [(2, 4), (3,)]
                assert [found.dtype for found in image.max(2)] == [torch.int32, torch.int64]
                assert torch.cat([image, turned], 1).shape == (2, 6, 4)

    def test_does_not_give_one_tensor_twice(self) -> None:
        image = torch.empty(8, device="meta")
        with LiveBytes([image]) as count:
            kept = [image + 1, image + 1]
            assert kept[0] is not kept[1]
            assert count.live == 64

    def test_counts_what_is_kept_for_the_backward_pass(self) -> None:
        weight = torch.ones(KILOBYTE // 4, requires_grad=True)

        def square() -> torch.Tensor:
            return (weight * 2).square().sum()

        with torch.no_grad():
            discarded = count_bytes(square, [weight]).peak
        with LiveBytes([weight]) as count:
            loss = square()
            assert count.live == KILOBYTE + 4
            loss.backward()
        assert discarded == 2 * KILOBYTE
        assert weight.grad is not None


class TestPeakBytes:
    @pytest.mark.parametrize("hypergradient", ESTIMATORS)
    def test_of_a_step_are_to_the_byte_the_same_on_the_meta_device(self, hypergradient: str, tiny_model: MakeModel) -> None:
        counted = [count_bytes(*whole_step(tiny_model().to(device), hypergradient)).peak for device in ("cpu", "meta")]
        assert counted[1] == counted[0]

    def test_kept_for_the_backward_pass_are_to_the_byte_what_the_allocator_handed_out(self, tiny_model: MakeModel) -> None:
        model, batch = tiny_model(), torch.randn(4, 2, 48, 64)
        stand_in, shape = tiny_model().to("meta"), torch.empty(4, 2, 48, 64, device="meta")
        with FlashAttention(), LiveBytes([*stand_in.parameters(), *stand_in.buffers(), shape]) as count:
            kept = stand_in(shape)
            counted = count.live
        assert kept.shape == (4, 2, 48, 64)
        # Beside it the number that brings the fused image to unit spread: the division keeps it as a tensor of its own.
        assert counted + DOUBLE == allocated(lambda: model(batch))

    def test_grow_with_the_estimator_s_needs(self, tiny_model: MakeModel) -> None:
        """``joint``, with the whole batch in the follower at a time, holds more than the one of halves."""
        counted = {name: count_bytes(*whole_step(tiny_model().to("meta"), name)).peak for name in ESTIMATORS}
        assert counted["gauss_newton"] < counted["none"] <= counted["joint"]

    def test_of_a_network_in_a_network_are_counted_without_gradients(self) -> None:
        network = nn.Conv2d(1, 1, 3, padding=1, device="meta")
        image = torch.empty(1, 1, 16, 16, device="meta")
        with torch.no_grad():
            assert count_bytes(lambda: network(image), [image, *network.parameters()]).peak == 4 * 16 * 16


def unet_like() -> nn.Sequential:
    """Convolution blocks as nnU-Net builds them, strided and transposed."""
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True), nn.LeakyReLU(inplace=True),
                         nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.InstanceNorm2d(16, affine=True), nn.LeakyReLU(inplace=True),
                         nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(8, 4, 1))


class TestHalfPrecision:
    @pytest.mark.parametrize("device", ["cpu", "meta"])
    @pytest.mark.parametrize(("operation", "given", "expected"), [
        (lambda x: functional.conv2d(x, torch.ones(2, 3, 3, 3, device=x.device)), torch.float32, torch.float16),
        (lambda x: functional.conv_transpose2d(x, torch.ones(3, 2, 2, 2, device=x.device)), torch.float32, torch.float16),
        (lambda x: functional.linear(x, torch.ones(5, 8, device=x.device)), torch.float32, torch.float16),
        (lambda x: x @ x.transpose(2, 3), torch.float32, torch.float16),
        (lambda x: functional.scaled_dot_product_attention(x, x, x), torch.float32, torch.float16),
        (lambda x: functional.layer_norm(x, x.shape[2:]), torch.float16, torch.float32),
        (lambda x: x.softmax(dim=1), torch.float16, torch.float32),
        (lambda x: functional.cross_entropy(x, torch.zeros(2, 8, 8, dtype=torch.long, device=x.device)), torch.float16,
         torch.float32),
        (lambda x: functional.binary_cross_entropy_with_logits(x, x), torch.float16, torch.float32),
        (lambda x: x.exp(), torch.float16, torch.float32), (lambda x: x**2, torch.float16, torch.float32),
        (lambda x: x.sum(), torch.float16, torch.float32), (lambda x: x + 1, torch.float16, torch.float16),
        (lambda x: x.tanh(), torch.float16, torch.float16), (lambda x: x.abs().mean(), torch.float16, torch.float16),
    ])
    def test_gives_the_types_that_pytorch_documents_for_cuda(self, operation: Callable[[torch.Tensor], torch.Tensor],
                                                             given: torch.dtype, expected: torch.dtype, device: str) -> None:
        images = torch.ones(2, 3, 8, 8, dtype=given, device=device)
        with HalfPrecision():
            assert operation(images).dtype == expected
        if given == torch.float32:
            assert operation(images).dtype == torch.float32

    def test_leaves_whole_numbers_and_double_precision_alone(self) -> None:
        double = torch.ones(1, 1, 4, 4, dtype=torch.float64)
        with HalfPrecision():
            assert functional.conv2d(double, torch.ones(1, 1, 3, 3, dtype=torch.float64)).dtype == torch.float64
            assert torch.ones(3, dtype=torch.long).sum().dtype == torch.long

    def test_casts_a_parameter_once_and_frees_it_afterwards(self) -> None:
        layer, image = nn.Conv2d(1, 32, 3, device="meta"), torch.empty(1, 1, 3, 3, device="meta")
        with torch.no_grad(), LiveBytes([layer.weight, layer.bias, image]) as count:
            with HalfPrecision():
                layer(image)
                once = count.live
                layer(image)
                assert count.live == once > 0
            assert count.live == 0

    def test_gives_float32_gradients_of_float32_parameters(self) -> None:
        layer = nn.Conv2d(1, 2, 3)
        with HalfPrecision():
            loss = layer(torch.randn(1, 1, 5, 5)).sum()
        loss.backward()
        assert layer.weight.grad.dtype == torch.float32

    def test_keeps_as_many_bytes_for_the_backward_pass_as_autocast_does(self) -> None:
        network, image = unet_like(), torch.randn(2, 1, 32, 32)
        with LiveBytes([*network.parameters(), image]) as real:
            # Of the same size, and the type whose kernels every CPU has.
            with torch.autocast("cpu", torch.bfloat16):
                kept = network(image)
            expected = real.live
        network.to("meta")
        image = image.to("meta")
        with LiveBytes([*network.parameters(), image]) as count:
            with HalfPrecision():
                again = network(image)
            assert count.live == expected
        assert (kept.dtype, again.dtype) == (torch.bfloat16, torch.float16)
