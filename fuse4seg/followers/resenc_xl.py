"""nnU-Net's residual encoder U-Net, size XL, for 40 GB unless told otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from fuse4seg.networks.follower import RESENC_PLANNER, FollowerKind, StagedSettings


@dataclass(frozen=True)
class Settings(StagedSettings):
    """Entries of a network whose stages nnU-Net plans."""


FOLLOWER = FollowerKind(planner=f"{RESENC_PLANNER}XL")
