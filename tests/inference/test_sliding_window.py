"""Windows in batches: against a loop over single windows, and what is computed only once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import pytest
import torch
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from torch import nn

from fuse4seg.inference.precision import has_bfloat16
from fuse4seg.inference.sliding_window import segment_windows
from fuse4seg.networks.fuse_then_segment import FuseThenSegment

MakeNetwork = Callable[..., FuseThenSegment]
CPU = torch.device("cpu")


UNMIRRORED = ((),)


def image_of(*shape: int, channels: int = 1) -> torch.Tensor:
    return torch.rand(channels, *shape, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def reference(network: nn.Module, image: torch.Tensor, patch: list[int], step: float,
              copies: Sequence[tuple[int, ...]] = UNMIRRORED) -> torch.Tensor:
    """One window and mirrored copy after the other in float32; the image is no smaller than the patch."""
    flat = len(patch) == 2
    images = image.transpose(0, 1) if flat else image[None]
    weight = compute_gaussian(tuple(patch), sigma_scale=1 / 8, value_scaling_factor=10, dtype=torch.float32, device=CPU)
    total, weights = torch.zeros(len(images), 4, *images.shape[2:]), torch.zeros(images.shape[2:])
    for corner in product(*compute_steps_for_sliding_window(images.shape[2:], tuple(patch), step)):
        window = tuple(slice(start, start + extent) for start, extent in zip(corner, patch, strict=True))
        for index, part in enumerate(images):
            mirrored = [network(part[None][(..., *window)].flip(axes)).flip(axes)[0] for axes in copies]
            total[(index, slice(None), *window)] += torch.stack(mirrored).mean(dim=0) * weight
        weights[window] += weight
    found = total / weights
    return found.transpose(0, 1) if flat else found[0]


class TestSegmentWindows:
    @pytest.mark.parametrize(("shape", "patch"), [((5, 40, 21), [16, 16]), ((5, 16, 16), [16, 16]),
                                                  ((20, 40, 21), [16, 16, 16])])
    @pytest.mark.parametrize("step", [0.5, 1.0])
    def test_is_a_loop_over_single_windows(self, make_network: MakeNetwork, shape: tuple[int, ...], patch: list[int],
                                           step: float) -> None:
        network, image = make_network(len(patch), colours=1).segmentation, image_of(*shape)
        found = segment_windows(network, image, patch_size=patch, step_size=step, device=CPU, precision=torch.float32)
        torch.testing.assert_close(found, reference(network, image, patch, step), atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize(("patch", "axes", "copies"), [
        ([16, 16], (0, 1), [(), (2,), (3,), (2, 3)]), ([16, 16], (1,), [(), (3,)]),
        ([16, 16, 16], (0, 1, 2), [(), (2,), (3,), (4,), (2, 3), (2, 4), (3, 4), (2, 3, 4)])])
    @pytest.mark.parametrize("voxels", [1, 3 * 16**3, 2**18])
    def test_averages_over_mirrored_copies_of_all_channels(self, patch: list[int], axes: tuple[int, ...],
                                                           copies: list[tuple[int, ...]], voxels: int,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever number of them goes through the network at a time."""
        monkeypatch.setattr("fuse4seg.inference.sliding_window.VOXELS_ON_CPU", voxels)
        torch.manual_seed(0)
        network = (nn.Conv2d, nn.Conv3d)[len(patch) - 2](2, 4, 3, padding=1)
        image = image_of(18, 40, 21, channels=2)
        image[:, :, :16] = 0
        found = segment_windows(network, image, patch_size=patch, step_size=0.5, device=CPU, precision=torch.float32,
                                mirror_axes=axes)
        torch.testing.assert_close(found, reference(network, image, patch, 0.5, copies), atol=1e-5, rtol=1e-5)

    def test_of_an_image_smaller_than_the_patch_is_that_of_the_padded_one(self, make_network: MakeNetwork) -> None:
        network, image = make_network(colours=1).segmentation, image_of(3, 10, 13)
        padded = torch.zeros(1, 3, 16, 16)
        padded[..., 3:13, 1:14] = image
        arguments = {"patch_size": [16, 16], "step_size": 0.5, "device": CPU, "precision": torch.float32}
        found, whole = (segment_windows(network, part, **arguments) for part in (image, padded))
        torch.testing.assert_close(found, whole[..., 3:13, 1:14])

    @pytest.mark.parametrize("axes", [2, 3])
    def test_reads_each_window_before_it_mirrors_it(self, axes: int) -> None:
        """A network that gives back what it is shown, and reading that adds one plus a slope along X of the window."""
        def read(windows: torch.Tensor) -> torch.Tensor:
            return 1 + torch.cat([windows, torch.arange(16.0).expand_as(windows)], dim=1)

        image = image_of(18, 41, 16)
        found = segment_windows(nn.Identity(), image, patch_size=[16] * axes, step_size=0.5, device=CPU, precision=torch.float32,
                                mirror_axes=range(axes), read=read)
        torch.testing.assert_close(found[:1], 1 + image)
        torch.testing.assert_close(found[1:], 1 + torch.arange(16.0).expand_as(image))

    @pytest.mark.parametrize("patch", [[16, 16], [16, 16, 16]])
    def test_of_an_image_without_anything_in_it_is_that_of_zeros(self, make_network: MakeNetwork, patch: list[int]) -> None:
        network, image = make_network(len(patch), colours=1).segmentation, torch.zeros(1, 18, 20, 21)
        found = segment_windows(network, image, patch_size=patch, step_size=0.5, device=CPU, precision=torch.float32)
        torch.testing.assert_close(found, reference(network, image, patch, 0.5), atol=1e-4, rtol=1e-4)

    def test_segments_one_empty_window_for_all_of_them(self, make_network: MakeNetwork) -> None:
        network, image = make_network(colours=1).segmentation, image_of(40, 16, 16)
        image[:, 3:38] = 0
        seen: list[torch.Tensor] = []
        hook = network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        arguments = {"patch_size": [16, 16], "step_size": 0.5, "device": CPU, "precision": torch.float32}
        found = segment_windows(network, image, **arguments)
        hook.remove()
        assert sum(len(batch) for batch in seen) == 5 + 1
        torch.testing.assert_close(found, reference(network, image, [16, 16], 0.5), atol=1e-4, rtol=1e-4)

    @pytest.mark.skipif(not has_bfloat16(), reason="this processor has no bfloat16")
    def test_in_bfloat16_is_close_to_float32(self, make_network: MakeNetwork) -> None:
        network, image = make_network(colours=1).segmentation, image_of(5, 40, 21)
        found, exact = (segment_windows(network, image, patch_size=[16, 16], step_size=0.5, device=CPU, precision=precision)
                        for precision in (torch.bfloat16, torch.float32))
        assert found.dtype == torch.float32
        assert 0 < (found - exact).abs().mean() < 0.02 * exact.std()
