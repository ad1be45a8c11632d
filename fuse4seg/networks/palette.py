"""Palette: which modality each colour channel of the fused image prefers before training."""

from __future__ import annotations

import torch
from torch import Tensor

#: Hues (red, green, blue) of the first, the middle and the last modality. Orange, grey-green and blue lie apart along yellow and
#: blue, which people who confuse red and green tell apart, and are about equally bright.
HUES = ((0.80, 0.30, 0.08), (0.10, 0.45, 0.35), (0.08, 0.25, 0.65))


def preferences(modalities: int, colours: int) -> Tensor:
    r"""Log-odds of each modality in each channel.

    .. math:: p_{ci} = \log h_i(c), \quad h_i \text{ on the line of HUES, at } i / (N - 1)

    So two modalities are orange and blue. A single channel prefers none.

    Args:
        modalities: Number N, at least 1.
        colours: Channels of the fused image, 1 or 3.

    Returns:
        Shape (colours, N).

    Raises:
        ValueError: There are other than 1 or 3 channels.

    Example:
        >>> preferences(2, 3).softmax(dim=1)[0]  # red is mostly the first modality
        tensor([0.9091, 0.0909])
    """
    if colours not in (1, 3):
        raise ValueError(f"a fused image has 1 or 3 channels, not {colours}")
    if colours == 1:
        return torch.zeros(1, modalities)
    places = torch.linspace(0, len(HUES) - 1, modalities)
    before = places.floor().clamp(max=len(HUES) - 2).long()
    hues, further = torch.tensor(HUES), (places - before)[:, None]
    return torch.lerp(hues[before], hues[before + 1], further).log().T.contiguous()
