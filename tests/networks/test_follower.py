"""What followers say about themselves, and those of fixed stages: padded to what they divide, and cropped to what came."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fuse4seg.followers import cnn_transformer, resenc_l, unet
from fuse4seg.networks.follower import FixedFollower, FollowerKind, follower_kind

Images = Callable[..., torch.Tensor]


class Recording(FixedFollower):
    """Gives its input twice over, as two classes, and remembers what that was."""

    def __init__(self, *, multiple: int) -> None:
        super().__init__(multiple=multiple)
        self.seen: list[torch.Tensor] = []

    def segment(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images)
        return torch.cat([images, 1 - images], dim=1)


class TestFixedFollower:
    @pytest.mark.parametrize(("size", "padded"), [
        ((16, 24), (16, 24)), ((17, 24), (24, 24)), ((1, 7), (8, 16)), ((16, 25), (16, 32)), ((5, 8, 23), (8, 8, 24))])
    def test_shows_its_network_zeros_behind_the_image_up_to_the_multiple(self, size: tuple[int, ...], padded: tuple[int, ...],
                                                                         random_images: Images) -> None:
        network, images = Recording(multiple=8), random_images(2, 1, *size) + 1
        logits = network(images)
        (seen,) = network.seen
        assert seen.shape == (2, 1, *padded)
        inside = (..., *(slice(extent) for extent in size))
        assert torch.equal(seen[inside], images)
        assert seen.sum() == pytest.approx(images.sum().item(), rel=1e-5)
        assert torch.equal(logits, torch.cat([images, 1 - images], dim=1))

    def test_hands_an_image_that_fits_on_as_it_is(self, random_images: Images) -> None:
        network, images = Recording(multiple=4), random_images(1, 1, 8, 12)
        network(images)
        assert network.seen[0] is images

    def test_sends_every_voxel_its_gradient_through_padding_and_crop(self, random_images: Images) -> None:
        images = random_images(1, 1, 5, 7).requires_grad_()
        (Recording(multiple=4)(images)[:, 0] * 3).sum().backward()
        assert torch.equal(images.grad, torch.full_like(images, 3))

    def test_lets_nnunet_switch_deep_supervision_without_effect(self, random_images: Images) -> None:
        network, images = Recording(multiple=4), random_images(1, 1, 5, 7)
        before = network(images)
        network.decoder.deep_supervision = True
        assert torch.equal(network(images), before)
        assert [name for name, _ in network.named_modules()] == [""]  # the decoder is no second copy of the weights

    def test_that_says_not_how_it_segments_is_none(self, random_images: Images) -> None:
        with pytest.raises(NotImplementedError):
            FixedFollower(multiple=2)(random_images(1, 1, 4, 4))


class TestFollowerKind:
    def test_is_found_by_the_name_of_its_file(self) -> None:
        for module, name in ((unet, "unet"), (resenc_l, "resenc_l"), (cnn_transformer, "cnn_transformer")):
            assert follower_kind(name) is module.FOLLOWER

    def test_is_unless_said_otherwise_what_nnunet_plans(self) -> None:
        assert follower_kind("unet") == FollowerKind()
        assert (FollowerKind().network, FollowerKind().fixed, FollowerKind().axes) == (None, False, (2, 3))
