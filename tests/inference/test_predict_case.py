"""One case through a model: the follower segments exactly the image that is exported, and needs nothing else for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from scipy.ndimage import gaussian_filter
from torch import nn

from fuse4seg.inference.input_space import read_levels
from fuse4seg.inference.model import Model
from fuse4seg.inference.predict_case import fuse_case, predict_case, segment_fused
from fuse4seg.inference.sliding_window import segment_windows
from fuse4seg.networks.fuse_then_segment import FuseThenSegment, as_read, mirrored

MakeNetwork = Callable[..., FuseThenSegment]
MakeLoaded = Callable[..., Model]
CHANNELS = torch.randn(3, 4, 40, 21, generator=torch.Generator().manual_seed(1))


def properties_of(channels: torch.Tensor) -> dict[str, Any]:
    """As nnU-Net's preprocessor leaves them of a case that it neither crops nor resamples."""
    shape = tuple(channels.shape[1:])
    return {"spacing": [1.0, 1.0, 1.0], "shape_before_cropping": shape, "bbox_used_for_cropping": [[0, size] for size in shape],
            "shape_after_cropping_and_before_resampling": shape}


def preprocessed(model: Model, shape: Sequence[int], spacing: Sequence[float]) -> tuple[torch.Tensor, dict[str, Any]]:
    """Smooth heads amid zeros, cropped, turned and resampled as the model's plans say."""
    noise = np.random.default_rng(0).standard_normal((3, *shape))
    images = np.stack([3 * gaussian_filter(one, 1.5) / gaussian_filter(one, 1.5).std() for one in noise]).astype(np.float32)
    images[:, :2], images[:, :, -3:], images[..., :4] = 0, 0, 0
    given = {"spacing": list(spacing)}
    description = model.description
    data, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(images, None, given, description.plans,
                                                                          description.configuration, description.dataset_json)
    return torch.from_numpy(np.ascontiguousarray(data)), properties


class Reading(nn.Module):
    """A follower that is shown images in [0, 1]."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.follower, self.leader = model.network.segmentation, model.network.fusion

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.follower(as_read(image, leader=self.leader))


def stock_logits(model: Model, image: torch.Tensor) -> np.ndarray:
    """nnU-Net's own sliding window, with the settings of ``model``, over an image."""
    stock = nnUNetPredictor(use_mirroring=bool(model.mirror_axes), tile_step_size=model.step_size, device=model.device,
                            allow_tqdm=False)
    stock.network, stock.configuration_manager = Reading(model), model.description.configuration
    stock.label_manager, stock.allowed_mirroring_axes = model.description.label_manager, model.mirror_axes
    return stock.predict_sliding_window_return_logits(image).numpy()


def image_of(model: Model, levels: np.ndarray, spacing: Sequence[float] = (1, 1, 1)) -> torch.Tensor:
    """What is read of an exported image."""
    return torch.from_numpy(read_levels(levels, spacing, description=model.description)[0])


class TestPredictCase:
    @pytest.mark.parametrize(("axes", "colours", "mirror"), [(2, 1, True), (2, 3, False), (2, 3, True), (3, 1, False),
                                                             (3, 3, True)])
    def test_segments_exactly_the_image_that_it_exports(self, make_network: MakeNetwork, make_loaded: MakeLoaded, axes: int,
                                                        colours: int, mirror: bool) -> None:
        model = make_loaded(make_network(axes, colours=colours), mirror=mirror)
        made = predict_case(model, CHANNELS, properties_of(CHANNELS))
        (levels,) = made.fused
        assert (levels.dtype, levels.shape) == (np.uint8, (colours, *CHANNELS.shape[1:]))
        assert (made.logits.dtype, made.logits.shape) == (np.float16, (4, *CHANNELS.shape[1:]))
        image = torch.from_numpy(levels / np.float32(255))
        again = segment_windows(Reading(model), image, patch_size=[16] * axes, step_size=0.5, device=model.device,
                                precision=torch.float32, mirror_axes=model.mirror_axes)
        np.testing.assert_allclose(made.logits, again.numpy(), atol=5e-3)
        # nnU-Net adds up in half precision.
        np.testing.assert_allclose(made.logits, stock_logits(model, image), atol=0.05)

    @pytest.mark.parametrize(("axes", "shape"), [(2, (2, 16, 16)), (2, (2, 13, 11)), (3, (16, 16, 16)), (3, (13, 16, 11))])
    def test_within_one_window_is_one_pass_as_in_training(self, make_network: MakeNetwork, make_loaded: MakeLoaded, axes: int,
                                                          shape: tuple[int, ...]) -> None:
        """Padded or not, mirrored copies included."""
        network, channels = make_network(axes), torch.randn(3, *shape, generator=torch.Generator().manual_seed(2))
        made = predict_case(make_loaded(network, mirror=True), channels, properties_of(channels))
        padded, inside = pad_nd_image(channels.transpose(0, 1) if axes == 2 else channels[None], [16] * axes, return_slicer=True)
        with torch.no_grad():
            image = network.fuse(padded).fused.image
            flips = [torch.tensor(flip).expand(len(padded), -1) for flip in product([False, True], repeat=axes)]
            copies = [mirrored(network.segment(image, flips=flip), flip) for flip in flips]
        expected = torch.stack(copies).mean(dim=0)[(slice(None), slice(None), *inside[2:])]
        expected = expected.transpose(0, 1) if axes == 2 else expected[0]
        np.testing.assert_allclose(made.logits, expected.numpy(), atol=5e-3)

    def test_fuses_once_for_all_mirrored_copies(self, make_network: MakeNetwork, make_loaded: MakeLoaded,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
        network, fused = make_network(), []
        fuse = network.fuse
        monkeypatch.setattr(network, "fuse", lambda images, **given: fused.append(len(images)) or fuse(images, **given))
        channels = CHANNELS[..., :16, :16]
        predict_case(make_loaded(network, mirror=True), channels, properties_of(channels))
        assert sum(fused) == channels.shape[1]

    def test_with_all_mirrored_copies_does_not_depend_on_how_the_image_lies(self, make_network: MakeNetwork,
                                                                            make_loaded: MakeLoaded) -> None:
        model = make_loaded(make_network(), mirror=True)
        levels = np.random.default_rng(0).integers(1, 256, (3, 2, 16, 16), dtype=np.uint8)
        found = segment_fused(model, [levels], (1, 1, 1)).logits
        for axis in (2, 3):
            flipped = segment_fused(model, [np.flip(levels, axis).copy()], (1, 1, 1)).logits
            np.testing.assert_allclose(np.flip(flipped, axis), found, atol=5e-3)

    def test_shows_the_follower_a_cascades_labels_and_mirrors_them_along(self, make_network: MakeNetwork,
                                                                         make_loaded: MakeLoaded) -> None:
        network, labels = make_network(extra=1), (CHANNELS[:1] > 0.5).float()
        model = make_loaded(network, mirror=True)
        made = predict_case(model, torch.cat([CHANNELS, labels]), properties_of(CHANNELS))
        shown = torch.cat([torch.from_numpy(made.fused[0] / np.float32(255)), labels])
        np.testing.assert_allclose(made.logits, stock_logits(model, shown), atol=0.05)
        without = predict_case(model, torch.cat([CHANNELS, 0 * labels]), properties_of(CHANNELS))
        np.testing.assert_array_equal(without.fused[0], made.fused[0])
        assert np.abs(without.logits - made.logits).max() > 0.05

    def test_in_blocks_of_slices_is_the_same(self, make_network: MakeNetwork, make_loaded: MakeLoaded,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
        model = make_loaded(make_network(), mirror=True)
        whole = predict_case(model, CHANNELS, properties_of(CHANNELS))
        monkeypatch.setattr("fuse4seg.inference.predict_case.VOXELS_IN_BLOCK", 3 * CHANNELS[0, 0].numel())
        blocks = predict_case(model, CHANNELS, properties_of(CHANNELS))
        np.testing.assert_array_equal(blocks.fused[0], whole.fused[0])
        np.testing.assert_allclose(blocks.logits, whole.logits, atol=2e-3)

    def test_fuses_with_each_set_of_weights_and_averages_the_logits(self, make_network: MakeNetwork,
                                                                    make_loaded: MakeLoaded) -> None:
        both = predict_case(make_loaded(make_network(seed=0), make_network(seed=1)), CHANNELS, properties_of(CHANNELS))
        alone = [predict_case(make_loaded(make_network(seed=seed)), CHANNELS, properties_of(CHANNELS)) for seed in (0, 1)]
        for found, one in zip(both.fused, alone, strict=True):
            np.testing.assert_array_equal(found, one.fused[0])
        assert (both.fused[0] != both.fused[1]).any()
        np.testing.assert_allclose(both.logits, (alone[0].logits + alone[1].logits) / 2, atol=1e-2)

    def test_gives_attention_on_request_and_the_same_image(self, make_network: MakeNetwork, make_loaded: MakeLoaded) -> None:
        model = make_loaded(make_network(seed=0), make_network(seed=1))
        plain, asked = (predict_case(model, CHANNELS, properties_of(CHANNELS), want_attention=wanted) for wanted in (False, True))
        assert plain.attention == (None, None)
        assert [heat.shape for heat in asked.attention] == [(2, *CHANNELS.shape[1:])] * 2
        np.testing.assert_array_equal(plain.fused, asked.fused)

    def test_of_a_model_without_labels_is_fused_alone(self, make_network: MakeNetwork, make_loaded: MakeLoaded) -> None:
        network = make_network()
        made = predict_case(make_loaded(network, labels=False), CHANNELS, properties_of(CHANNELS))
        assert made.logits is None
        assert made.space == properties_of(CHANNELS)
        np.testing.assert_array_equal(made.fused, predict_case(make_loaded(network), CHANNELS, properties_of(CHANNELS)).fused)


class TestFuseCase:
    def test_is_the_first_image_of_a_prediction(self, make_network: MakeNetwork, make_loaded: MakeLoaded) -> None:
        model = make_loaded(make_network(seed=0), make_network(seed=1))
        present = (True, False, True)
        for given in (None, present):
            made = predict_case(model, CHANNELS, properties_of(CHANNELS), present=given)
            np.testing.assert_array_equal(fuse_case(model, CHANNELS, properties_of(CHANNELS), present=given), made.fused[0])


class TestSegmentFused:
    """The promise of the method: the exported image is all that the segmentation was made from."""

    @pytest.mark.parametrize(("colours", "target", "spacing", "transpose"), [
        (3, (1, 1), (3.0, 1.0, 1.0), (0, 1, 2)), (1, (1, 1), (3.0, 0.7, 1.3), (0, 1, 2)),
        (3, (1.2, 0.8), (1.0, 1.0, 1.0), (2, 0, 1)), (1, (1, 1, 1), (1.0, 1.0, 1.0), (0, 1, 2)),
        (3, (1, 1, 1), (1.5, 0.9, 0.7), (1, 2, 0)), (1, (1, 1, 1), (5.0, 1.2, 1.1), (0, 1, 2))])
    def test_gives_the_logits_of_the_prediction_bit_for_bit(self, make_network: MakeNetwork, make_loaded: MakeLoaded,
                                                            colours: int, target: tuple[float, ...], spacing: tuple[float, ...],
                                                            transpose: tuple[int, ...]) -> None:
        """Two folds, in 2D and in 3D, resampled or not; the last one's slices are too thick to be resampled with the others."""
        networks = [make_network(len(target), seed=seed, colours=colours) for seed in (0, 1)]
        model = make_loaded(*networks, spacing=target, transpose=transpose, mirror=len(target) == 2)
        channels, properties = preprocessed(model, (10, 24, 26), spacing)
        made = predict_case(model, channels, properties)
        again = segment_fused(model, made.fused, spacing)
        assert made.fused[0].shape == (colours, 10, 24, 26)
        np.testing.assert_array_equal(again.logits, made.logits)
        assert {name: made.space[name] for name in again.space} == again.space
        assert len(np.unique(made.logits.argmax(axis=0))) > 1

    def test_of_an_image_without_anything_in_it_segments_emptiness(self, make_network: MakeNetwork,
                                                                   make_loaded: MakeLoaded) -> None:
        made = segment_fused(make_loaded(make_network()), [np.zeros((3, 2, 20, 18), np.uint8)], (1, 1, 1))
        assert made.logits.shape == (4, 2, 20, 18)
        assert np.isfinite(made.logits).all()

    def test_wants_an_image_for_each_set_of_weights(self, make_network: MakeNetwork, make_loaded: MakeLoaded) -> None:
        with pytest.raises(ValueError, match="argument 2 is shorter"):
            segment_fused(make_loaded(make_network(), make_network(seed=1)), [np.ones((3, 2, 20, 18), np.uint8)], (1, 1, 1))


class TestAbsentModalities:
    @pytest.mark.parametrize("mirror", [False, True])
    def test_do_not_matter_whatever_stands_in_their_channel(self, make_network: MakeNetwork, make_loaded: MakeLoaded,
                                                            mirror: bool) -> None:
        model, made = make_loaded(make_network(), mirror=mirror), []
        for content in (0.0, 3.0):
            channels = CHANNELS.clone()
            channels[1] = content
            made.append(predict_case(model, channels, properties_of(channels), present=(True, False, True)))
        np.testing.assert_array_equal(made[0].fused, made[1].fused)
        np.testing.assert_array_equal(made[0].logits, made[1].logits)
        whole = predict_case(model, CHANNELS, properties_of(CHANNELS))
        assert (whole.fused[0] != made[0].fused[0]).any()
