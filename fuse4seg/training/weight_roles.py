"""Which of a model's weights belong to single modalities, classes or input channels: those that grow with their number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fuse4seg.networks.decoder import AuxiliaryHead
from fuse4seg.networks.discriminator import CONVOLUTIONS
from fuse4seg.networks.fuse_then_segment import FuseThenSegment, build_planned
from fuse4seg.training.origin import FOLLOWER, HEAD, LEADER

#: Axis of each weight, by name, along which there is an entry for each; None where a number adds other than one entry.
Axes = Mapping[str, int | None]


class Roles(NamedTuple):
    """Weights by what they belong to, under the names of :mod:`~fuse4seg.training.origin`.

    Attributes:
        modalities: Of the leader, those with an entry for each modality.
        classes: Of the follower and the auxiliary head, those with one for each class.
        inputs: Of the follower, those with one for each input channel: its stem.
    """

    modalities: Axes
    classes: Axes
    inputs: Axes


def roles_of(network: FuseThenSegment, architecture: Mapping[str, Any], *, inputs: int, classes: int) -> Roles:
    """Find the roles of a network's weights by building it with one modality, class and input channel more, without memory.

    So it is known of every leader and follower, a user's own ones, too.

    Args:
        network: Leader and follower.
        architecture: The arguments that plans give it: leader, follower, strides.
        inputs: Channels that the follower reads.
        classes: Outputs of the follower.
    """
    fusion, conv_op = network.fusion, CONVOLUTIONS[network.fusion.axes]
    head = {}
    with torch.device("meta"):
        more_classes = build_planned(architecture["follower"], input_channels=inputs, num_classes=classes + 1,
                                     deep_supervision=False)
        more_inputs = build_planned(architecture["follower"], input_channels=inputs + 1, num_classes=classes,
                                    deep_supervision=False)
        if fusion.has_features:
            few, many = (AuxiliaryHead(conv_op, fusion.decoded_features, classes=classes + more) for more in range(2))
            head = growing(few, many, prefix=HEAD)
        try:
            more_modalities = build_planned(architecture["leader"], modalities=fusion.modalities + 1, conv_op=conv_op,
                                            strides=architecture["strides"])
        except ValueError:  # a leader for two, which has nothing for each
            more_modalities = fusion
    return Roles(growing(fusion, more_modalities, prefix=LEADER),
                 {**growing(network.segmentation, more_classes, prefix=FOLLOWER), **head},
                 growing(network.segmentation, more_inputs, prefix=FOLLOWER))


def growing(network: nn.Module, grown: nn.Module, *, prefix: str = "") -> dict[str, int | None]:
    """Weights that differ in shape between two networks of one kind, of which the other has one more of something.

    Returns:
        By name, behind ``prefix``, the axis that has one entry more; None where it is otherwise.

    Example:
        >>> growing(nn.Conv2d(3, 8, 1), nn.Conv2d(4, 8, 1))
        {'weight': 1}
    """
    shapes = {name: weight.shape for name, weight in own_weights(network).items()}
    found: dict[str, int | None] = {}
    for name, weight in own_weights(grown).items():
        if name in shapes and weight.shape != shapes[name]:
            found[prefix + name] = _only_axis(shapes[name], weight.shape)
    return found


def own_weights(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers that a checkpoint holds, each once, by their first names: nnU-Net's U-Net has its encoder twice."""
    first: dict[int, str] = {}
    every = network.state_dict(keep_vars=True)
    for name, weight in every.items():
        first.setdefault(id(weight), name)
    return {name: every[name] for name in first.values()}


def _only_axis(before: torch.Size, after: torch.Size) -> int | None:
    if len(before) != len(after):
        return None
    longer = [axis for axis, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    return longer[0] if len(longer) == 1 and after[longer[0]] == before[longer[0]] + 1 else None
