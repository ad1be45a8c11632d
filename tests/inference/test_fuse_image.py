"""Fusing whole images: slices one by one, tiles blended without seams, every voxel covered, maps around 1."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional

from fuse4seg.inference import fuse_image
from fuse4seg.inference.fuse_image import fuse_whole_image
from fuse4seg.networks.fuse_then_segment import FuseThenSegment

CPU = torch.device("cpu")
MakeNetwork = Callable[..., FuseThenSegment]


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
        monkeypatch.setattr(fuse_image, "VOXELS_AT_ONCE", 2 * 3 * 16 * 16)
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
