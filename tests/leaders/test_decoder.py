"""The decoder as leader: its image is the decoder's and nothing else, in grey alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from fuse4seg.errors import RecipeError
from fuse4seg.leaders.decoder import DecoderLeader
from fuse4seg.leaders.gate import GateLeader
from fuse4seg.networks.dual_stream import DualStreamLeader
from fuse4seg.planning.leaders import leader_class, own_entries
from fuse4seg.recipes.reading import changed, read_recipe
from fuse4seg.recipes.recipe import Leader

Images = Callable[..., torch.Tensor]
METHOD = Path(__file__).parents[2] / "documentation" / "explanation" / "method.md"


def fusion(modalities: int = 2, *, axes: int = 2, kind: type[DualStreamLeader] = DecoderLeader) -> DualStreamLeader:
    torch.manual_seed(0)
    network = kind(modalities, conv_op=nn.Conv2d if axes == 2 else nn.Conv3d, strides=[1, 2, 2], detail_features=4,
                   base_features=8, couplings=1, transformers=1, colours=1)
    network.initialise()
    return network


class TestForward:
    @pytest.mark.parametrize("modalities", [1, 2, 3])
    @pytest.mark.parametrize("size", [(16, 24), (17, 13), (5, 3), (8, 8, 8), (7, 9, 5)])
    def test_image_is_what_the_decoder_paints_of_its_features(self, modalities: int, size: tuple[int, ...],
                                                              random_images: Images) -> None:
        network = fusion(modalities, axes=len(size))
        fused = network(random_images(2, modalities, *size))
        whole = network.decoder.painted(fused.decoded)
        assert torch.equal(fused.image, whole[(..., *(slice(extent) for extent in size))])
        assert fused.image.shape == (2, 1, *size)
        assert 0 < fused.image.min() < fused.image.max() < 1
        assert fused.own is None

    def test_leaves_what_is_absent_out(self, random_images: Images) -> None:
        network, sources = fusion(3), random_images(2, 3, 12, 9)
        present, spoilt = torch.tensor([[True, False, True], [True, True, True]]), sources.clone()
        spoilt[0, 1] = torch.nan
        image = network(spoilt, present=present).image
        assert torch.equal(image, network(sources, present=present).image)
        torch.testing.assert_close(image[1:], network(sources[1:]).image)
        assert (image[:1] - network(sources[:1]).image).abs().max() > 1e-4

    def test_is_not_held_to_its_sources(self, random_images: Images) -> None:
        """A gate's image lies between its sources and a tint; of black sources this one is as bright as it likes."""
        network = fusion()
        nn.init.constant_(network.decoder.paint.bias, 4.0)
        assert network(torch.zeros(1, 2, 8, 8)).image.mean() > 0.8

    def test_has_the_gate_s_parameters_but_for_those_of_the_gate(self) -> None:
        decoder, gate = ({name: part.shape for name, part in fusion(3, kind=kind).named_parameters()}
                         for kind in (DecoderLeader, GateLeader))
        assert decoder == {name: shape for name, shape in gate.items() if not name.startswith("gate.")}

    @pytest.mark.parametrize("axes", [2, 3])
    def test_computes_nothing_from_values_so_that_memory_can_be_counted(self, axes: int) -> None:
        network = fusion(axes=axes).to("meta")
        assert network(torch.empty(2, 2, *[9] * axes, device="meta")).image.shape == (2, 1, *[9] * axes)


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("recipe", ["fuse4seg", "paper"])
def test_parameters_are_as_the_page_on_the_method_says(recipe: str, axes: int) -> None:
    """For four modalities; of our leader, too."""
    entries = own_entries(read_recipe(recipe).leader, Leader)
    conv_op, kind = {2: nn.Conv2d, 3: nn.Conv3d}[axes], leader_class(read_recipe(recipe))
    with torch.device("meta"):
        network = kind(4, conv_op=conv_op, strides=[1, 2, 2, 2], colours=3 if recipe == "fuse4seg" else 1, **entries)
    count = sum(parameter.numel() for parameter in network.parameters())
    said = re.search(r"^For four modalities this leader has (.*?)\.\n", METHOD.read_text(), re.MULTILINE | re.DOTALL)[1]
    ours, theirs = said.split("`paper`")
    assert re.findall(r"[\d,]{4,}\d", theirs if recipe == "paper" else ours)[axes - 2] == f"{count:,}"


class TestColours:
    def test_are_refused_by_the_network(self) -> None:
        with pytest.raises(ValueError, match="the decoder gives one channel, not 3"):
            DecoderLeader(2, conv_op=nn.Conv2d, strides=[1, 2, 2], colours=3)

    def test_are_refused_by_its_recipe(self) -> None:
        with pytest.raises(RecipeError, match=r"^--set: leader\.fused_image: the decoder gives one channel. Set it to grey\."):
            changed(read_recipe("fuse4seg"), ["leader.network=decoder"])
        leader = changed(read_recipe("fuse4seg"), ["leader.network=decoder", "leader.fused_image=grey"]).leader
        with pytest.raises(RecipeError, match="the decoder gives one channel"):
            replace(leader, fused_image="colour")
