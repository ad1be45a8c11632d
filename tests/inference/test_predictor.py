"""The predictor: the follower segments exactly the fused image that is exported, and mirrored copies of it, or fused anew."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from fuse4seg.errors import CheckpointError, CheckpointNotFoundError
from fuse4seg.inference.predictor import Fuse4SegPredictor, load_predictor
from fuse4seg.inference.sliding_window import segment_windows
from fuse4seg.inference.tiles import pad_to_tiles
from fuse4seg.networks.demosaic import PASSES
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.networks.mirror import mirrored

MakeModel = Callable[..., FuseThenSegment]
MakePredictor = Callable[..., Fuse4SegPredictor]
CHANNELS = torch.randn(3, 4, 40, 21, generator=torch.Generator().manual_seed(1))


def stock_logits(predictor: Fuse4SegPredictor, network: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    """nnU-Net's own sliding window, with the settings of ``predictor``, over an image."""
    stock = nnUNetPredictor(use_mirroring=predictor.use_mirroring, tile_step_size=predictor.tile_step_size,
                            device=predictor.device, allow_tqdm=False)
    stock.network, stock.configuration_manager = network, predictor.configuration_manager
    stock.label_manager, stock.allowed_mirroring_axes = predictor.label_manager, predictor.allowed_mirroring_axes
    return stock.predict_sliding_window_return_logits(image)


class TestPredictor:
    @pytest.mark.parametrize("axes", [2, 3])
    def test_segments_exactly_the_image_it_has_seen(self, make_model: MakeModel, make_predictor: MakePredictor,
                                                    axes: int) -> None:
        model = make_model(axes)
        predictor = make_predictor(model, axes=axes, mirror=False)
        logits = predictor.predict_sliding_window_return_logits(CHANNELS)
        assert logits.shape == (4, *CHANNELS.shape[1:])
        fused = predictor.seen[-1].fused
        again = segment_windows(model.segmentation, fused, patch_size=[16] * axes, step_size=0.5, device=predictor.device,
                                precision=torch.float32)
        assert torch.equal(logits, again.half())
        # nnU-Net adds up in half precision.
        torch.testing.assert_close(logits, stock_logits(predictor, model.segmentation, fused), atol=0.05, rtol=0)

    @pytest.mark.parametrize("axes", [2, 3])
    def test_mirrors_the_image_it_has_seen(self, make_model: MakeModel, make_predictor: MakePredictor, axes: int) -> None:
        model = make_model(axes)
        predictor = make_predictor(model, axes=axes, mirror=True)
        anew = predictor.predict_sliding_window_return_logits(CHANNELS)
        predictor.mirror_fused = True
        logits = predictor.predict_sliding_window_return_logits(CHANNELS)
        # nnU-Net adds up in half precision.
        torch.testing.assert_close(logits, stock_logits(predictor, model.segmentation, predictor.seen[-1].fused), atol=0.05,
                                   rtol=0)
        assert (logits - anew).abs().max() > 0.1

    def test_fuses_once_for_all_mirrored_copies(self, make_model: MakeModel, make_predictor: MakePredictor,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
        model, fused = make_model(), []
        fuse = model.fuse
        monkeypatch.setattr(model, "fuse", lambda images, **given: fused.append(len(images)) or fuse(images, **given))
        predictor = make_predictor(model, mirror=True)
        predictor.mirror_fused = True
        predictor.predict_sliding_window_return_logits(CHANNELS[..., :16, :16])
        assert sum(fused) == CHANNELS.shape[1]

    @pytest.mark.parametrize(("axes", "shape"), [(2, (2, 16, 16)), (2, (2, 13, 11)), (3, (16, 16, 16)), (3, (13, 16, 11))])
    def test_demosaics_as_training_does(self, make_model: MakeModel, make_predictor: MakePredictor, axes: int,
                                        shape: tuple[int, ...]) -> None:
        """Within one patch, padded or not, prediction is one pass of the model, mirrored copies included."""
        model, image = make_model(axes, demosaic=True), torch.randn(3, *shape, generator=torch.Generator().manual_seed(2))
        predictor = make_predictor(model, axes=axes, mirror=True)
        predictor.mirror_fused = True
        logits = predictor.predict_sliding_window_return_logits(image)
        padded, inside = pad_nd_image(image.transpose(0, 1) if axes == 2 else image[None], [16] * axes, return_slicer=True)
        with torch.no_grad():
            seen = model.fuse(padded)
            flips = [torch.tensor(flip).expand(len(padded), -1) for flip in product([False, True], repeat=axes)]
            copies = [mirrored(model.segment(seen, flips=flip), flip) for flip in flips]
        expected = torch.stack(copies).mean(dim=0)[(slice(None), slice(None), *inside[2:])]
        expected = expected.transpose(0, 1) if axes == 2 else expected[0]
        torch.testing.assert_close(logits.float(), expected, atol=5e-3, rtol=0)

    @pytest.mark.parametrize("axes", [2, 3])
    def test_sees_the_same_places_in_every_window(self, make_model: MakeModel, make_predictor: MakePredictor, axes: int) -> None:
        """The network's first part alone: what enters it, away from the windows' borders, is that of the whole image."""
        model = make_model(axes, demosaic=True)
        predictor = make_predictor(model, axes=axes)
        entered: list[torch.Tensor] = []
        model.segmentation.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
        predictor.predict_sliding_window_return_logits(CHANNELS)
        image = predictor.seen[-1].fused
        images = image.transpose(0, 1) if axes == 2 else image[None]
        whole = model.read(pad_to_tiles(images, tile=[16] * axes, on_grid=[2] * axes)[0])
        inner = (..., *[slice(PASSES, -PASSES)] * axes)
        assert len(entered) > 1
        for window in (sample for batch in entered for sample in batch):
            corners = [whole[(..., *(slice(start, start + 16) for start in corner))]
                       for corner in product(*(range(0, extent - 15, 2) for extent in whole.shape[2:]))]
            assert any(torch.allclose(part[inner], window[inner], atol=1e-6) for corner in corners for part in corner)

    def test_mirrors_a_cascades_labels_with_the_fused_image(self, make_model: MakeModel,
                                                            make_predictor: MakePredictor) -> None:
        model, labels = make_model(), (CHANNELS[:1] > 0.5).float()
        model.segmentation = torch.nn.Conv2d(2, 4, 3, padding=1)
        predictor = make_predictor(model, mirror=True)
        predictor.mirror_fused = True
        logits = predictor.predict_sliding_window_return_logits(torch.cat([CHANNELS, labels]))
        seen = torch.cat([predictor.seen[0].fused, labels])
        torch.testing.assert_close(logits, stock_logits(predictor, model.segmentation, seen), atol=0.05, rtol=0)

    def test_in_blocks_of_slices_is_the_same(self, make_model: MakeModel, make_predictor: MakePredictor,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
        whole = make_predictor(make_model(), mirror=True, want_attention=True)
        logits = whole.predict_sliding_window_return_logits(CHANNELS)
        monkeypatch.setattr("fuse4seg.inference.predictor.VOXELS_IN_BLOCK", 3 * CHANNELS[0, 0].numel())
        blocks = make_predictor(make_model(), mirror=True, want_attention=True)
        torch.testing.assert_close(blocks.predict_sliding_window_return_logits(CHANNELS), logits, atol=2e-3, rtol=0)
        (found,), (wanted,) = blocks.seen, whole.seen
        assert found.shown is found.fused
        torch.testing.assert_close(found.fused, wanted.fused)
        torch.testing.assert_close(found.attention, wanted.attention)

    @pytest.mark.parametrize(("axes", "copies"), [(2, [(), (2,), (3,), (2, 3)]),
                                                  (3, [(), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)])])
    def test_averages_over_mirrored_copies_of_the_channels(self, make_model: MakeModel, make_predictor: MakePredictor,
                                                           axes: int, copies: list[tuple[int, ...]]) -> None:
        model = make_model(axes)
        plain = make_predictor(model, axes=axes, mirror=False)
        expected = [plain.predict_sliding_window_return_logits(CHANNELS.flip(flipped)).flip(flipped) for flipped in copies]
        logits = make_predictor(model, axes=axes, mirror=True).predict_sliding_window_return_logits(CHANNELS)
        torch.testing.assert_close(logits.float(), torch.stack(expected).float().mean(dim=0), atol=1e-2, rtol=1e-2)

    def test_without_a_task_has_seen_the_same_of_every_set_of_weights(self, make_model: MakeModel,
                                                                      make_predictor: MakePredictor) -> None:
        predictor = make_predictor(make_model(seed=0), make_model(seed=1), want_attention=True)
        predictor.predict_logits_from_preprocessed_data(CHANNELS)
        wanted = predictor.seen
        predictor.forget()
        predictor.fuse_preprocessed_data(CHANNELS)
        assert len(predictor.seen) == 2
        for found, seen in zip(predictor.seen, wanted, strict=True):
            assert torch.equal(found.fused, seen.fused)
            assert torch.equal(found.attention, seen.attention)

    def test_has_seen_the_unmirrored_image_alone(self, make_model: MakeModel, make_predictor: MakePredictor) -> None:
        seen = []
        for mirror in (False, True):
            predictor = make_predictor(make_model(), mirror=mirror)
            predictor.predict_sliding_window_return_logits(CHANNELS)
            seen.append(predictor.seen)
        assert [len(entries) for entries in seen] == [1, 1]
        assert torch.equal(seen[0][0].fused, seen[1][0].fused)

    def test_is_stock_nnunet_on_the_whole_model_where_one_window_fits(self, make_model: MakeModel,
                                                                      make_predictor: MakePredictor) -> None:
        """Then fusing windows and fusing slices are the same thing."""
        model, channels = make_model(), CHANNELS[..., :16, :16]
        predictor = make_predictor(model)
        torch.testing.assert_close(predictor.predict_sliding_window_return_logits(channels),
                                   stock_logits(predictor, model, channels), atol=0.05, rtol=0)

    def test_sees_one_image_per_set_of_weights_and_averages_their_logits(self, make_model: MakeModel,
                                                                         make_predictor: MakePredictor) -> None:
        both = make_predictor(make_model(seed=0), make_model(seed=1))
        together = both.predict_logits_from_preprocessed_data(CHANNELS)
        alone = []
        for seed in (0, 1):
            predictor = make_predictor(make_model(seed=seed))
            alone.append(predictor.predict_logits_from_preprocessed_data(CHANNELS))
            assert torch.equal(predictor.seen[0].fused, both.seen[seed].fused)
        assert len(both.seen) == 2
        assert not torch.equal(both.seen[0].fused, both.seen[1].fused)
        torch.testing.assert_close(together, (alone[0] + alone[1]) / 2, atol=1e-2, rtol=1e-2)

    def test_forgets_what_it_saw_and_keeps_its_model(self, make_model: MakeModel,
                                                     make_predictor: MakePredictor) -> None:
        model = make_model()
        predictor = make_predictor(model)
        predictor.predict_sliding_window_return_logits(CHANNELS)
        predictor.forget()
        assert predictor.seen == []
        assert predictor.network is model

    def test_keeps_its_model_when_a_window_fails(self, make_model: MakeModel, make_predictor: MakePredictor,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
        model = make_model()
        predictor = make_predictor(model)

        def fail(*_: object) -> None:
            raise RuntimeError("no memory")

        monkeypatch.setattr(model.segmentation, "forward", fail)
        with pytest.raises(RuntimeError, match="no memory"):
            predictor.predict_sliding_window_return_logits(CHANNELS)
        assert predictor.network is model

    def test_passes_a_cascades_labels_to_the_follower(self, make_model: MakeModel,
                                                      make_predictor: MakePredictor) -> None:
        model, labels = make_model(), torch.ones(1, *CHANNELS.shape[1:])
        received: list[torch.Tensor] = []
        model.segmentation.forward = lambda image: received.append(image) or torch.zeros(1, 4, *image.shape[2:])
        predictor = make_predictor(model)
        predictor.predict_sliding_window_return_logits(torch.cat([CHANNELS, labels]))
        assert {image.shape[1] for image in received} == {2}
        assert all(bool((image[:, 1] == 1).any()) for image in received)

    def test_keeps_attention_maps_on_request(self, make_model: MakeModel, make_predictor: MakePredictor) -> None:
        predictor = make_predictor(make_model(), want_attention=True)
        predictor.predict_sliding_window_return_logits(CHANNELS)
        assert predictor.seen[0].attention.shape == (2, *CHANNELS.shape[1:])


class TestAbsentModalities:
    @pytest.mark.parametrize(("mirror", "fused"), [(False, False), (True, False), (True, True)])
    def test_do_not_matter_whatever_stands_in_their_channel(self, make_model: MakeModel, make_predictor: MakePredictor,
                                                            mirror: bool, fused: bool) -> None:
        predictor, logits = make_predictor(make_model(), mirror=mirror), []
        predictor.mirror_fused = fused
        for content in (0.0, 3.0):
            channels = CHANNELS.clone()
            channels[1] = content
            predictor.forget()
            predictor.present = (True, False, True)
            logits.append(predictor.predict_sliding_window_return_logits(channels))
        assert torch.equal(*logits)

    def test_are_forgotten_with_their_case(self, make_model: MakeModel, make_predictor: MakePredictor) -> None:
        predictor = make_predictor(make_model())
        whole = predictor.predict_sliding_window_return_logits(CHANNELS)
        predictor.present = (True, False, True)
        assert not torch.equal(predictor.predict_sliding_window_return_logits(CHANNELS), whole)
        predictor.forget()
        assert torch.equal(predictor.predict_sliding_window_return_logits(CHANNELS), whole)


class TestLoadedPredictor:
    def load(self, model: Path, **changes: object) -> Fuse4SegPredictor:
        return load_predictor(model, **{"folds": [0], "device": torch.device("cpu"), **changes})

    def test_has_the_trained_weights_and_the_trainings_mirror_axes(self, trained_model: Path) -> None:
        predictor = self.load(trained_model)
        trained = torch.load(trained_model / "fold_0" / "checkpoint_final.pth", weights_only=True)
        for name, value in predictor.network.state_dict().items():
            assert torch.equal(value, trained["network_weights"][name])
        assert predictor.allowed_mirroring_axes == (0, 1)
        assert predictor.modality_dropout == 0

    @pytest.mark.parametrize(("rates", "least"), [((0.25,), 0.25), ((0.5, 0.1), 0.1), ((0.5, None), 0)])
    def test_knows_how_often_its_trainings_left_modalities_out(self, trained_model: Path, tmp_path: Path,
                                                               rates: tuple[float | None, ...], least: float) -> None:
        """None stands for a checkpoint from before there was modality dropout."""
        for name in ("plans.json", "dataset.json"):
            (tmp_path / name).write_bytes((trained_model / name).read_bytes())
        for fold, rate in enumerate(rates):
            state = torch.load(trained_model / "fold_0" / "checkpoint_final.pth", weights_only=True)
            state["options"].pop("modality_dropout")
            state["options"].update({} if rate is None else {"modality_dropout": rate})
            (tmp_path / f"fold_{fold}").mkdir()
            torch.save(state, tmp_path / f"fold_{fold}" / "checkpoint_final.pth")
        assert self.load(tmp_path, folds=list(range(len(rates)))).modality_dropout == least

    @pytest.mark.parametrize(("folds", "mirrors"), [((True,), True), ((True, False), False), ((True, None), False),
                                                    ((None,), False)])
    def test_mirrors_the_fused_image_if_all_its_trainings_did(self, trained_model: Path, tmp_path: Path,
                                                              folds: tuple[bool | None, ...], mirrors: bool) -> None:
        """None stands for a checkpoint from before trainings did so."""
        for name in ("plans.json", "dataset.json"):
            (tmp_path / name).write_bytes((trained_model / name).read_bytes())
        for fold, with_it in enumerate(folds):
            state = torch.load(trained_model / "fold_0" / "checkpoint_final.pth", weights_only=True)
            state["options"]["bilevel"].pop("mirror_fused", None)
            state["options"]["bilevel"].update({} if with_it is None else {"mirror_fused": with_it})
            (tmp_path / f"fold_{fold}").mkdir()
            torch.save(state, tmp_path / f"fold_{fold}" / "checkpoint_final.pth")
        assert self.load(tmp_path, folds=list(range(len(folds)))).mirror_fused is mirrors

    def test_needs_no_results_root(self, trained_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("nnUNet_results")
        assert isinstance(self.load(trained_model).network, FuseThenSegment)

    def test_refuses_a_fold_without_checkpoint(self, trained_model: Path) -> None:
        with pytest.raises(CheckpointNotFoundError, match="fold_3"):
            self.load(trained_model, folds=[3])

    def test_refuses_weights_of_other_plans(self, trained_model: Path, tmp_path: Path) -> None:
        for name in ("plans.json", "dataset.json"):
            (tmp_path / name).write_bytes((trained_model / name).read_bytes())
        (tmp_path / "fold_0").mkdir()
        state = torch.load(trained_model / "fold_0" / "checkpoint_final.pth", weights_only=True)
        state["network_weights"].popitem()
        torch.save(state, tmp_path / "fold_0" / "checkpoint_final.pth")
        with pytest.raises(CheckpointError, match="does not fit"):
            self.load(tmp_path)
