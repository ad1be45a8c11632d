"""Whole images in windows: blended without seams, every voxel covered, against a loop over single windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional

from fuse4seg.inference.model import has_bfloat16
from fuse4seg.inference.sliding_window import as_group_norms, blend_tiles, fuse_whole_image, pad_to_tiles, segment_windows
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

    @pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="this processor has no bfloat16")
    def test_in_bfloat16_is_close_to_float32(self, make_network: MakeNetwork) -> None:
        network, image = make_network(colours=1).segmentation, image_of(5, 40, 21)
        found, exact = (segment_windows(network, image, patch_size=[16, 16], step_size=0.5, device=CPU, precision=precision)
                        for precision in (torch.bfloat16, torch.float32))
        assert found.dtype == torch.float32
        assert 0 < (found - exact).abs().mean() < 0.02 * exact.std()


def smooth_channels(count: int, *shape: int, seed: int = 0) -> Tensor:
    """Random smooth channels with intensities around 0, shape (count, *shape)."""
    noise = np.random.default_rng(seed).standard_normal((count, *shape), dtype=np.float32)
    return torch.from_numpy(np.stack([gaussian_filter(channel, 1.5, mode="wrap") * 4 for channel in noise]))


class MeanOfChannels:
    """Stands in for a network: a voxel's fused value depends on that voxel alone, so tiling must not show at all."""

    modalities, fusion = 2, SimpleNamespace(reference=0, colours=1)

    def fuse(self, channels: Tensor, *, present: Tensor | None = None, want_maps: bool = False) -> SimpleNamespace:
        return SimpleNamespace(fused=SimpleNamespace(image=channels.mean(dim=1, keepdim=True), attention=None))


class TestSlices:
    def test_are_fused_as_if_each_were_alone(self, make_network: MakeNetwork) -> None:
        model, channels = make_network(), smooth_channels(3, 5, 24, 20)
        whole = fuse_whole_image(model, channels, patch_size=[24, 20], device=CPU)
        with torch.no_grad():
            alone = [model.fuse(channels[None, :, index]).fused.image[0] for index in range(5)]
        torch.testing.assert_close(whole.fused, torch.stack(alone, dim=1), atol=1e-6, rtol=0)

    def test_do_not_depend_on_how_many_are_fused_at_once(self, make_network: MakeNetwork,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
        model, channels = make_network(), smooth_channels(3, 5, 16, 16)
        at_once = fuse_whole_image(model, channels, patch_size=[16, 16], device=CPU).fused
        monkeypatch.setattr("fuse4seg.inference.sliding_window.VOXELS_FUSED_AT_ONCE", 2 * 3 * 16 * 16)
        torch.testing.assert_close(fuse_whole_image(model, channels, patch_size=[16, 16], device=CPU).fused, at_once,
                                   atol=1e-6, rtol=0)

    def test_smaller_than_the_patch_are_fused_amid_zeros_as_in_training(self, make_network: MakeNetwork) -> None:
        model, channels = make_network(), smooth_channels(3, 2, 20, 17)
        whole = fuse_whole_image(model, channels, patch_size=[32, 24], device=CPU).fused
        amid_zeros = functional.pad(channels[None, :, 1], (3, 4, 6, 6))
        with torch.no_grad():
            expected = model.fuse(amid_zeros).fused.image[0, :, 6:-6, 3:-4]
        torch.testing.assert_close(whole[:, 1], expected, atol=1e-6, rtol=0)

    def test_a_little_larger_than_the_patch_are_tiled_too(self, make_network: MakeNetwork) -> None:
        model, channels = make_network(), smooth_channels(3, 1, 40, 32)
        tiled = fuse_whole_image(model, channels, patch_size=[32, 32], device=CPU).fused
        with torch.no_grad():
            first = model.fuse(channels[None, :, 0, :32]).fused.image[0]
        torch.testing.assert_close(tiled[:, 0, 0], first[:, 0], atol=1e-6, rtol=0)  # rows that one window alone sees


class TestVolumes:
    def test_of_one_patch_are_fused_whole(self, make_network: MakeNetwork) -> None:
        model, channels = make_network(axes=3), smooth_channels(3, 12, 16, 10)
        whole = fuse_whole_image(model, channels, patch_size=[12, 16, 10], device=CPU).fused
        assert whole.shape == (3, 12, 16, 10)
        with torch.no_grad():
            torch.testing.assert_close(whole, model.fuse(channels[None]).fused.image[0], atol=1e-6, rtol=0)

    def test_larger_than_the_patch_are_tiled(self, make_network: MakeNetwork) -> None:
        channels = smooth_channels(3, 20, 40, 17)
        whole = fuse_whole_image(make_network(axes=3), channels, patch_size=[16, 16, 16], device=CPU)
        assert whole.fused.shape == (3, 20, 40, 17)
        assert torch.isfinite(whole.fused).all()


class TestTiles:
    @settings(max_examples=15, deadline=None)
    @given(height=st.integers(1, 70), width=st.integers(1, 70), patch=st.tuples(st.integers(8, 24), st.integers(8, 24)))
    def test_cover_every_voxel_and_leave_a_voxelwise_fusion_unchanged(self, height: int, width: int,
                                                                      patch: tuple[int, int]) -> None:
        channels = torch.rand(2, 2, height, width)
        whole = fuse_whole_image(MeanOfChannels(), channels, patch_size=patch, device=CPU).fused
        torch.testing.assert_close(whole, channels.mean(dim=0, keepdim=True), atol=1e-5, rtol=0)

    def test_leave_a_voxelwise_fusion_of_a_volume_unchanged(self) -> None:
        channels = torch.rand(2, 30, 13, 41)
        whole = fuse_whole_image(MeanOfChannels(), channels, patch_size=[16, 16, 16], device=CPU).fused
        torch.testing.assert_close(whole, channels.mean(dim=0, keepdim=True), atol=1e-5, rtol=0)

    def test_of_a_constant_image_blend_to_what_one_tile_gives_inside(self, make_network: MakeNetwork) -> None:
        """Away from borders a leader has nothing to change its shares for."""
        model, constant = make_network(), torch.full((3, 1, 96, 96), 0.5)
        blended = fuse_whole_image(model, constant, patch_size=[48, 48], device=CPU).fused[:, 0, 16:-16, 16:-16]
        tile = fuse_whole_image(model, constant[..., :48, :48], patch_size=[48, 48], device=CPU).fused[:, 0]
        assert float((blended - tile[:, 24:25, 24:25]).abs().max()) < 0.02

    def test_agree_inside_with_fusing_the_slice_whole(self, make_network: MakeNetwork) -> None:
        """What is left is attention, which looks at a tile here and at the whole slice there."""
        model, channels = make_network(), smooth_channels(3, 1, 128, 112)
        blended = fuse_whole_image(model, channels, patch_size=[64, 64], device=CPU).fused[0, 0]
        direct = fuse_whole_image(model, channels, patch_size=[128, 112], device=CPU).fused[0, 0]
        difference = (blended - direct).abs()
        assert float(difference.max()) > 0  # it was tiled
        assert float(difference.mean()) < 5 / 255
        assert float(difference[16:-16, 16:-16].max()) < 0.1


class TestFusedImage:
    @pytest.mark.parametrize("colours", [1, 3])
    def test_of_one_window_has_whole_levels_from_1_on(self, make_network: MakeNetwork, colours: int) -> None:
        """Black everywhere, on every modality: not 0, which is outside."""
        channels = smooth_channels(3, 1, 16, 16)
        channels[:, :, :8] = -5
        fused = fuse_whole_image(make_network(colours=colours), channels, patch_size=[16, 16], device=CPU).fused
        assert fused.shape == (colours, 1, 16, 16)
        levels = 255 * fused
        torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
        assert levels.min() >= 1 - 1e-4

    def test_lies_between_0_and_1_and_is_0_outside_the_image(self, make_network: MakeNetwork) -> None:
        channels = smooth_channels(3, 2, 40, 40)
        channels[:, :, :7] = 0
        fused = fuse_whole_image(make_network(), channels, patch_size=[16, 16], device=CPU).fused
        assert 0 <= float(fused.min()) <= float(fused.max()) <= 1
        assert not fused[:, :, :7].any()
        assert bool((fused[:, :, 8:] > 0).any())

    def test_ignores_channels_behind_the_modalities(self, make_network: MakeNetwork) -> None:
        model, channels = make_network(), smooth_channels(3, 2, 16, 16)
        more = torch.cat([channels, torch.ones(1, 2, 16, 16)])
        torch.testing.assert_close(fuse_whole_image(model, more, patch_size=[16, 16], device=CPU).fused,
                                   fuse_whole_image(model, channels, patch_size=[16, 16], device=CPU).fused)


class TestAttentionMaps:
    def test_are_left_out_unless_asked_for(self, make_network: MakeNetwork) -> None:
        whole = fuse_whole_image(make_network(), smooth_channels(3, 2, 16, 16), patch_size=[16, 16], device=CPU)
        assert whole.attention is None

    @pytest.mark.parametrize(("axes", "modalities", "shape", "near"), [
        (2, 2, (2, 32, 24), 0.05), (2, 4, (1, 32, 32), 1e-3), (2, 4, (1, 48, 40), 0.1), (3, 3, (32, 32, 48), 0.05)])
    def test_are_one_per_other_modality_around_1(self, make_network: MakeNetwork, axes: int, modalities: int,
                                                 shape: tuple[int, ...], near: float) -> None:
        """Their mean is 1 in each window; padding and blending change it a little."""
        whole = fuse_whole_image(make_network(axes, modalities, seed=1), smooth_channels(modalities, *shape),
                                 patch_size=[32] * axes, device=CPU, want_attention=True)
        assert whole.attention is not None
        assert whole.attention.shape == (modalities - 1, *shape)
        assert float(whole.attention.mean()) == pytest.approx(1, abs=near)
        assert float(whole.attention.min()) >= 0

    def test_of_a_leader_that_looks_everywhere_alike_are_1_even_in_tiles(self, monkeypatch: pytest.MonkeyPatch) -> None:
        even = SimpleNamespace(image=torch.zeros(1, 1, 16, 16), attention=torch.full((1, 1, 8, 8), 1 / 64))
        monkeypatch.setattr(MeanOfChannels, "fuse", lambda *_, **__: SimpleNamespace(fused=even))
        whole = fuse_whole_image(MeanOfChannels(), torch.rand(2, 1, 50, 16), patch_size=[16, 16], device=CPU,
                                 want_attention=True)
        torch.testing.assert_close(whole.attention, torch.ones(1, 1, 50, 16), atol=1e-5, rtol=0)

    def test_do_not_change_the_fused_image(self, make_network: MakeNetwork) -> None:
        model, channels = make_network(), smooth_channels(3, 2, 40, 40)
        fused = [fuse_whole_image(model, channels, patch_size=[16, 16], device=CPU, want_attention=wanted).fused
                 for wanted in (False, True)]
        torch.testing.assert_close(*fused, atol=1e-6, rtol=0)

    def test_average_to_1_over_an_even_grid(self, make_network: MakeNetwork) -> None:
        """Probabilities sum to 1 over the 2 x 8 x 8 places of the grid, and the map is relative to their mean."""
        model, channels = make_network(), smooth_channels(3, 1, 32, 32)
        with torch.no_grad():
            maps = model.fuse(channels[None, :, 0], want_maps=True).fused.attention
        assert float(maps.sum()) == pytest.approx(1, abs=1e-5)
        whole = fuse_whole_image(model, channels, patch_size=[32, 32], device=CPU, want_attention=True).attention
        assert float(whole.mean()) == pytest.approx(float(maps.mean() * 2 * 64), abs=0.02)

    def test_of_a_single_modality_do_not_exist(self, make_network: MakeNetwork) -> None:
        channels = smooth_channels(1, 2, 16, 16)
        whole = fuse_whole_image(make_network(modalities=1, colours=1), channels, patch_size=[16, 16], device=CPU,
                                 want_attention=True)
        assert whole.fused.shape == (1, 2, 16, 16)
        assert whole.attention is None


class TestAbsentModalities:
    @pytest.mark.parametrize(("axes", "shape"), [(2, (2, 40, 24)), (3, (16, 40, 24))])
    @pytest.mark.parametrize("present", [(True, False, True), (False, True, True), (False, False, True)])
    def test_do_not_matter_whatever_stands_in_their_channel(self, make_network: MakeNetwork, axes: int, shape: tuple[int, ...],
                                                            present: tuple[bool, ...]) -> None:
        model, channels = make_network(axes), smooth_channels(3, *shape)
        other = channels.clone()
        other[~torch.tensor(present)] = torch.nan
        first, second = (fuse_whole_image(model, images, patch_size=[32] * axes, device=CPU, present=present, want_attention=True)
                         for images in (channels, other))
        assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
        assert torch.isfinite(first.fused).all()

    @pytest.mark.parametrize(("reference", "present", "seen"), [(0, (True, False, True), [1]), (1, (True, False, True), [0, 1]),
                                                                (2, (True, False, True), [0]), (0, (False, False, True), [1])])
    def test_leave_attention_relative_to_the_others(self, make_network: MakeNetwork, reference: int, present: tuple[bool, ...],
                                                    seen: list[int]) -> None:
        """Maps are in the order of the modalities but the reference; ``seen`` are those of modalities that answer."""
        model = make_network()
        model.fusion.reference = model.fusion.cross_attention.reference = reference
        maps = fuse_whole_image(model, smooth_channels(3, 2, 32, 32), patch_size=[32, 32], device=CPU, present=present,
                                want_attention=True).attention
        assert float(maps[seen].mean()) == pytest.approx(1, abs=0.05)
        assert (maps[[index for index in range(2) if index not in seen]] == 0).all()

    def test_leave_no_attention_where_no_other_is_there(self, make_network: MakeNetwork) -> None:
        maps = fuse_whole_image(make_network(), smooth_channels(3, 2, 32, 32), patch_size=[32, 32], device=CPU,
                                present=(True, False, False), want_attention=True).attention
        assert (maps == 0).all()


class TestPadToTiles:
    @pytest.mark.parametrize(("size", "padded"), [((13, 11), (16, 16)), ((16, 21), (16, 21)), ((9, 35, 16), (16, 35, 16))])
    def test_fills_windows_with_zeros_and_tells_where_the_image_lies(self, size: tuple[int, ...],
                                                                     padded: tuple[int, ...]) -> None:
        images = 1 + torch.rand(2, 3, *size)
        found, inside = pad_to_tiles(images, tile=[16] * len(size))
        assert found.shape == (2, 3, *padded)
        assert torch.equal(found[inside], images)
        assert int(found.count_nonzero()) == images.numel()


class TestBlendTiles:
    @pytest.mark.parametrize("size", [(16, 16), (17, 40), (20, 16, 33)])
    @pytest.mark.parametrize("step_size", [0.5, 1.0])
    def test_of_a_pointwise_function_is_that_function(self, size: tuple[int, ...], step_size: float) -> None:
        images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
        found = blend_tiles(images, lambda window: window[:, :2].square(), tile=[16] * len(size), step_size=step_size)
        torch.testing.assert_close(found, images[:, :2].square())

    def test_computes_a_single_window_once_and_as_it_is(self) -> None:
        images, seen = torch.rand(1, 1, 16, 16), []
        assert blend_tiles(images, lambda window: seen.append(window) or window, tile=[16, 16]) is images
        assert len(seen) == 1

    def test_steps_by_half_a_window_by_default(self) -> None:
        seen: list[torch.Tensor] = []
        blend_tiles(torch.rand(1, 1, 16, 32), lambda window: seen.append(window) or window, tile=[16, 16])
        assert len(seen) == 3


class TestAsGroupNorms:
    @pytest.mark.parametrize("shape", [(2, 8, 20, 12), (2, 8, 6, 10, 7), (2, 64, 4, 4)])
    @pytest.mark.parametrize("affine", [True, False])
    @pytest.mark.parametrize("channels_last", [True, False])
    def test_are_the_same(self, shape: tuple[int, ...], affine: bool, channels_last: bool) -> None:
        torch.manual_seed(0)
        norm = (nn.InstanceNorm2d, nn.InstanceNorm3d)[len(shape) - 4](shape[1], affine=affine)
        images = 3 + 2 * torch.randn(shape)
        if channels_last:
            layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
            images = images.contiguous(memory_format=layout)
        expected = norm(images)
        with as_group_norms(nn.Sequential(norm)):
            torch.testing.assert_close(norm(images), expected, atol=1e-5, rtol=1e-5)

    def test_keep_half_precision_under_autocast(self) -> None:
        norm, images = nn.InstanceNorm2d(4), torch.randn(1, 4, 16, 16, dtype=torch.bfloat16)
        with as_group_norms(nn.Sequential(norm)), torch.autocast("cpu", dtype=torch.bfloat16):
            found = norm(images)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), norm(images.float()), atol=0.03, rtol=0.01)

    def test_are_gone_after_the_block_whatever_happened_in_it(self) -> None:
        norm = nn.InstanceNorm2d(4)
        with pytest.raises(ZeroDivisionError), as_group_norms(nn.Sequential(norm)):
            _ = 1 / ("forward" not in vars(norm))
        assert "forward" not in vars(norm)

    def test_leave_norms_with_running_statistics_alone(self) -> None:
        norm = nn.InstanceNorm2d(4, track_running_stats=True)
        with as_group_norms(nn.Sequential(norm)):
            assert "forward" not in vars(norm)
