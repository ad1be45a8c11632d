"""Segmentation networks to choose from; what nnU-Net's planners know of each decides on its patch, batch and stages."""

from __future__ import annotations

from collections.abc import Sequence

from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    nnUNetPlannerResEncL,
    nnUNetPlannerResEncM,
    nnUNetPlannerResEncXL,
)

from fuse4seg.networks.cnn_transformer import CNNTransformer


class CNNTransformerPlanner(ExperimentPlanner):
    """nnU-Net's planner of its U-Net, for the hybrid.

    Its convolutions stop where an axis has 8 to 15 voxels left, not 4 to 7: a patch of 224 x 224 becomes TransUNet's 14 x 14
    tokens at 1/16 of the resolution. The rest, memory too, is as for the U-Net, whose feature maps are counted alike.

    Args:
        dataset_name_or_id, gpu_memory_target_in_gb, preprocessor_name, plans_name, overwrite_target_spacing,
            suppress_transpose: nnU-Net's.
    """

    def __init__(self, dataset_name_or_id: str | int, gpu_memory_target_in_gb: float = 8,
                 preprocessor_name: str = "DefaultPreprocessor", plans_name: str = "nnUNetPlans",
                 overwrite_target_spacing: Sequence[float] | None = None, suppress_transpose: bool = False) -> None:
        super().__init__(dataset_name_or_id, gpu_memory_target_in_gb, preprocessor_name, plans_name,
                         overwrite_target_spacing, suppress_transpose)
        self.UNet_class = CNNTransformer
        self.UNet_featuremap_min_edge_length = 8


UNET = "unet"
#: nnU-Net's planner of each follower. Unless told otherwise they fill 8 GB, ResEnc L 24 and XL 40.
FOLLOWERS: dict[str, type[ExperimentPlanner]] = {
    UNET: ExperimentPlanner,
    "resenc_m": nnUNetPlannerResEncM,
    "resenc_l": nnUNetPlannerResEncL,
    "resenc_xl": nnUNetPlannerResEncXL,
    "cnn_transformer": CNNTransformerPlanner,
}
