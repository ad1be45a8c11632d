"""A case as the network takes it."""

from __future__ import annotations

from itertools import compress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fuse4seg.datasets.raw import Case
from fuse4seg.inference.predictor import Fuse4SegPredictor
from fuse4seg.nnunet_output import logged_prints


def found_files(case: Case) -> tuple[Path, ...]:
    """The images that the case has."""
    return tuple(compress(case.images, case.found))


def preprocess_case(predictor: Fuse4SegPredictor, case: Case) -> tuple[Tensor, dict[str, Any]]:
    """Channels (C, Z, Y, X) and nnU-Net's properties of a case; the predictor is told which modalities it has.

    Args:
        predictor: From ``load_predictor``.
        case: With one existing image at least.
    """
    predictor.forget()
    found, files = case.found, found_files(case)
    predictor.present = None if all(found) else found
    # nnU-Net's preprocessing wants a file for every channel, all on one grid. For an absent one it gets the first that is there,
    # which leaves the crop as it is; the network puts zeros in its place, as predictor.present tells it.
    given = [str(path if there else files[0]) for path, there in zip(case.images, found, strict=True)]
    preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
    with logged_prints():
        channels, _, properties = preprocessor.run_case(given, None, predictor.plans_manager, predictor.configuration_manager,
                                                        predictor.dataset_json)
    return torch.from_numpy(channels), properties
