"""Types under emulated mixed precision against PyTorch's own autocast, which acts on the CPU alone here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from fuse4seg.planning.half_precision import HalfPrecision
from fuse4seg.planning.live_bytes import LiveBytes


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
