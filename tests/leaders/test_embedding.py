"""The leader without its reconstruction decoder."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fuse4seg.errors import RecipeError
from fuse4seg.leaders.decoder import DecoderLeader
from fuse4seg.leaders.embedding import EmbeddingLeader
from fuse4seg.planning.leaders import require_leader
from fuse4seg.recipes.reading import changed, read_recipe

SIZES = {"detail_features": 4, "base_features": 8, "couplings": 1, "transformers": 1}


def leader(axes: int = 2, *, colours: int = 1, modalities: int = 2) -> EmbeddingLeader:
    made = EmbeddingLeader(modalities, conv_op=nn.Conv2d if axes == 2 else nn.Conv3d, strides=[1, 2, 2], colours=colours, **SIZES)
    made.initialise()
    return made


class TestEmbeddingLeader:
    @pytest.mark.parametrize("colours", [1, 3])
    @pytest.mark.parametrize("size", [(16, 24), (17, 13), (7, 9, 5)])
    def test_shows_channels_in_0_to_1_of_the_sources_size(self, size: tuple[int, ...], colours: int) -> None:
        fused = leader(len(size), colours=colours, modalities=3)(torch.rand(2, 3, *size))
        assert fused.image.shape == (2, colours, *size)
        assert 0 < fused.image.min() < fused.image.max() < 1

    def test_has_the_parameters_of_the_paper_s_leader_less_its_decoder(self) -> None:
        paper_s = DecoderLeader(2, conv_op=nn.Conv2d, strides=[1, 2, 2], **SIZES)
        decoder, mixing = sum(map(torch.numel, paper_s.decoder.parameters())), (12 * 4 + 4) + (4 + 1)
        assert (sum(map(torch.numel, leader().parameters()))
                == sum(map(torch.numel, paper_s.parameters())) - decoder + mixing)

    def test_is_as_coarse_as_its_features(self) -> None:
        """Nothing but linear interpolation stands between a feature and the voxels around it."""
        image = leader()(torch.rand(1, 2, 32, 32)).image[0, 0].detach()
        # Between the centres of two features, voxels 2k + 1 and 2k + 2 lie on a line: a quarter and three quarters of the way.
        inner = image[1:-1, 1:-1]
        rows = inner.unflatten(0, (15, 2))
        between = rows[1:, 0] - rows[:-1, 1]
        within = rows[:, 1] - rows[:, 0]
        torch.testing.assert_close(between, (within[:-1] + within[1:]) / 2, atol=1e-5, rtol=0)

    def test_leaves_an_absent_modality_out(self) -> None:
        network, sources = leader(), torch.rand(1, 2, 16, 16)
        present = torch.tensor([[True, False]])
        first = network(sources, present=present).image
        sources[:, 1] = torch.nan
        assert torch.equal(network(sources, present=present).image, first)

    def test_cannot_be_pre_trained(self) -> None:
        with pytest.raises(NotImplementedError):
            leader().reconstruct(torch.rand(1, 2, 16, 16))
        recipe = read_recipe("paper_no_reconstruction")
        require_leader(recipe, ["T1", "T2"])
        with pytest.raises(RecipeError, match="pretraining.epochs: the leader embedding has nothing for it. Set it to 0"):
            require_leader(changed(recipe, ["pretraining.epochs=1"]), ["T1", "T2"])
