"""Palette: which modality each colour channel of the fused image prefers before training."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

#: Each modality's share of red, green and blue, by the number of modalities: orange and blue; red, green and blue; red, green,
#: blue and purple. A channel's shares add up to 1, so that what all modalities agree on is grey, and those of three or four
#: modalities over all channels are even. Found by a search for the largest distance in CIELAB between any two hues, as all of
#: full, red-blind, green-blind and blue-blind vision see them; so it is brightness, too, that tells them apart.
HUES: Mapping[int, tuple[tuple[float, float, float], ...]] = MappingProxyType({
    2: ((0.91, 0.55, 0.11), (0.09, 0.45, 0.89)),
    3: ((0.80, 0.01, 0.19), (0.10, 0.81, 0.08), (0.10, 0.18, 0.73)),
    4: ((0.63, 0.08, 0.04), (0.01, 0.74, 0.01), (0.01, 0.11, 0.63), (0.35, 0.07, 0.32)),
})


def preferences(modalities: int, colours: int) -> Tensor:
    r"""Log-odds of each modality in each channel.

    .. math:: p_{ci} = \log N h_i(c)

    with the hues h of HUES; those of more than four modalities lie on the line of the four. A single channel prefers none.

    Args:
        modalities: Number N, at least 1.
        colours: Channels of the fused image, 1 or 3.

    Returns:
        Shape (colours, N).

    Raises:
        ValueError: There are other than 1 or 3 channels.

    Example:
        >>> preferences(2, 3).softmax(dim=1)[0]  # red is mostly the first modality
        tensor([0.9100, 0.0900])
    """
    if colours not in (1, 3):
        raise ValueError(f"a fused image has 1 or 3 channels, not {colours}")
    if colours == 1 or modalities == 1:
        return torch.zeros(colours, modalities)
    hues = torch.tensor(HUES.get(modalities, HUES[max(HUES)]))
    places = torch.linspace(0, len(hues) - 1, modalities)
    before = places.floor().clamp(max=len(hues) - 2).long()
    found = torch.lerp(hues[before], hues[before + 1], (places - before)[:, None]).T
    return (modalities * found / found.sum(dim=1, keepdim=True)).log().contiguous()
