"""What a segmentation network, the follower, says about itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from fuse4seg.recipes.kinds import network_module
from fuse4seg.recipes.recipe import Follower, entry

#: nnU-Net's planner of its U-Net.
PLANNERS = "nnunetv2.experiment_planning.experiment_planners"
UNET_PLANNER = f"{PLANNERS}.default_experiment_planner.ExperimentPlanner"
#: And those of its residual encoder U-Nets, but for their size.
RESENC_PLANNER = f"{PLANNERS}.residual_unets.residual_encoder_unet_planners.nnUNetPlannerResEnc"


@dataclass(frozen=True)
class StagedSettings(Follower):
    """Entries of a network whose stages nnU-Net plans."""

    features: int = entry("features of its first stage; nnU-Net's have 32", least=4, planned=True)


@dataclass(frozen=True)
class FollowerKind:
    """How a follower is planned.

    A follower is a file in fuse4seg/followers: this under the name ``FOLLOWER``, and its entries in a recipe, a subclass of
    :class:`~fuse4seg.recipes.recipe.Follower` under the name ``Settings``. By name, the network's constructor takes the entries
    that ``Settings`` adds, but for ``features``, which nnU-Net's planner takes.

    Attributes:
        network: Class of the network; None: that of the planner. Its constructor takes input_channels, num_classes, by name
            deep_supervision, and what nnU-Net plans for its U-Net; a fixed one of that only conv_op and strides.
        planner: nnU-Net's planner, which lays out patch, batch and stages, as MODULE.CLASS.
        smallest_edge: Voxels of the coarsest feature map, at least; None: the planner's.
        fixed: Its stages are as published, whatever the planner says.
        axes: Of the images that it takes.
        deep_supervision: It gives outputs at the resolutions that nnU-Net's loss wants, the finest first.
    """

    network: type[nn.Module] | None = None
    planner: str = UNET_PLANNER
    smallest_edge: int | None = None
    fixed: bool = False
    axes: tuple[int, ...] = (2, 3)
    deep_supervision: bool = True


def follower_kind(network: str) -> FollowerKind:
    """How a follower is planned, by its name in recipes.

    Example:
        >>> follower_kind("unet").deep_supervision
        True
    """
    return network_module("follower", network).FOLLOWER


class FixedFollower(nn.Module):
    """A network whose stages are as published, for images of any size: they are padded with zeros to what it divides.

    Its subclass has ``segment``, and takes what is below by its constructor.

    Args:
        multiple: Extents that the network takes are multiples of this.

    Attributes:
        deep_supervision: nnU-Net sets it at ``decoder``; it has no effect here.
    """

    deep_supervision = False

    def __init__(self, *, multiple: int) -> None:
        super().__init__()
        self.multiple = multiple

    @property
    def decoder(self) -> nn.Module:
        """Where nnU-Net switches deep supervision."""
        return self

    def segment(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes, *S) of images (B, input_channels, *S), each extent a multiple of ``multiple``."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes, *S) of images (B, input_channels, *S)."""
        size: Sequence[int] = images.shape[2:]
        missing = [-extent % self.multiple for extent in size]
        # Batch normalisation needs two values of a channel, even of one sample's coarsest features.
        missing[-1] = max(missing[-1], 2 * self.multiple - size[-1])
        padding = [amount for width in reversed(missing) for amount in (0, width)]
        padded = functional.pad(images, padding) if any(missing) else images
        return self.segment(padded)[(..., *(slice(extent) for extent in size))]
