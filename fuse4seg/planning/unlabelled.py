"""Preprocessing of datasets without labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager


class UnlabelledPreprocessor(DefaultPreprocessor):
    """nnU-Net's preprocessor, which stores what its data loader asks of a training case: a segmentation and where classes lie."""

    def run_case(self, image_files: Sequence[str], seg_file: str | None, plans_manager: PlansManager,
                 configuration_manager: ConfigurationManager,
                 dataset_json: dict[str, Any] | str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Preprocess one case.

        Args:
            image_files: One per channel.
            seg_file: Where nnU-Net takes the label to be; there is none.
            plans_manager: The plans.
            configuration_manager: Their configuration.
            dataset_json: The dataset's description.

        Returns:
            Channels (C, Z, Y, X), a segmentation (1, Z, Y, X) of 0 inside and -1 outside the nonzero mask, and properties with
            the locations of no class, so that patches are drawn anywhere.
        """
        channels, segmentation, properties = super().run_case(image_files, None, plans_manager, configuration_manager,
                                                              dataset_json)
        return channels, segmentation, {**properties, "class_locations": {}}
