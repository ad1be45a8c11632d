"""Every published leader gives one image in [0, 1] of its sources' size, of slices and volumes, of two modalities and more."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fuse4seg.leaders.cddfuse import CDDFuse
from fuse4seg.leaders.ddcgan import DDcGAN
from fuse4seg.leaders.didfuse import DIDFuse
from fuse4seg.leaders.rfn_nest import RFNNest
from fuse4seg.leaders.tardal import TarDAL
from fuse4seg.leaders.u2fusion import U2Fusion
from fuse4seg.networks.pair_leader import PairLeader
from tests.leaders.pairs import maker_of

#: Whose last layer is a sigmoid, which never gets to its ends.
OF_A_SIGMOID = (CDDFuse, DIDFuse)


@pytest.mark.parametrize("kind", [*OF_A_SIGMOID, DDcGAN, RFNNest, TarDAL, U2Fusion])
@pytest.mark.parametrize(("size", "modalities"), [((16, 24), 2), ((1, 9), 2), ((1, 9), 3), ((7, 5), 4), ((3, 6, 5), 3)])
def test_gives_one_image_in_0_to_1_of_the_sources_size(kind: type[PairLeader], size: tuple[int, ...], modalities: int,
                                                       sources: Callable[..., torch.Tensor]) -> None:
    image = maker_of(kind)(len(size), modalities)(sources(2, modalities, *size)).image
    assert image.shape == (2, 1, *size)
    assert image.min() >= 0
    assert image.max() <= 1
    assert kind is RFNNest or image.min() < image.max()  # which clamps all of it before it has learnt anything
    if kind in OF_A_SIGMOID:
        assert image.min() > 0
        assert image.max() < 1
