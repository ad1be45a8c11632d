"""What a row of a comparison makes of a case: its fused image, in 0..255, on the grid of the preprocessed cases."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg.colour import WHITE
from fuse4seg.comparison.case_grid import CaseGrid, FusedElsewhere
from fuse4seg.comparison.rows import Row
from fuse4seg.datasets.dataset_json import read_dataset_json
from fuse4seg.inference.fusion_rules import fuse_by_rule
from fuse4seg.inference.image_files import read_fused
from fuse4seg.inference.input_space import read_levels
from fuse4seg.inference.model import ModelDescription

#: Makes an image (K, Z, Y, X) in 0..255 of a case's name and sources (N, Z, Y, X) in 0..255.
Fuse = Callable[[str, np.ndarray], np.ndarray]


def by_rule(rule: str) -> Fuse:
    """Fusion by a rule of f4s_fuse."""
    return lambda _case, sources: fuse_by_rule(list(sources), rule)


def fused_by(row: Row, exported: Path | None, source: Path, *, plans: dict[str, Any], configuration: str) -> Fuse | None:
    """How a row fuses; None where it does not.

    Args:
        row: Which.
        exported: Folder of the images that its leader's validation left; None where no leader was trained.
        source: The dataset's preprocessed folder.
        plans: Of the dataset.
        configuration: The one that was trained.
    """
    kind, which = row.source or (None, None)
    if kind == "rule":
        return by_rule(str(which))
    manager, dataset_json = PlansManager(copy.deepcopy(plans)), read_dataset_json(source)
    if kind == "folder":
        dataset = nnUNetDatasetBlosc2(str(source / manager.get_configuration(configuration).data_identifier))
        images = FusedElsewhere(Path(str(which)), CaseGrid(manager, configuration, dataset_json))
        return lambda case, sources: images.levels(case, sources.shape[1:], dataset.load_case(case)[3])
    if exported is None:
        return None
    description = ModelDescription(manager, manager.get_configuration(configuration), dataset_json)

    def read(case: str, _sources: np.ndarray) -> np.ndarray:
        levels, properties = read_fused(exported / f"{case}{dataset_json['file_ending']}", manager.image_reader_writer_class)
        image, _ = read_levels(levels, properties["spacing"], description=description)
        return image * WHITE

    return read
