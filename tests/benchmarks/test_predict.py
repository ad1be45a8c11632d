"""The plain loop that the benchmark of prediction holds the fast path against."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fuse4seg.datasets.raw import list_cases
from fuse4seg.inference.model import load_model
from fuse4seg.inference.predict_case import predict_case
from fuse4seg.inference.preprocess_case import preprocessed_images


@pytest.fixture(scope="module")
def predict(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("predict")


def test_the_plain_loop_gives_the_logits_of_the_fast_path(predict: ModuleType, trained_model: Path, phantom_roots: Path) -> None:
    model = load_model(trained_model, folds=[0], device=torch.device("cpu"), precision="float32")
    images = phantom_roots / "nnUNet_raw" / "Dataset990_Phantom" / "imagesTs"
    (case,) = list_cases(images, channels=["T1", "T1ce", "T2", "FLAIR"], file_ending=model.description.file_ending).values()
    channels, properties = preprocessed_images(case, model.description)
    made = predict_case(model, torch.from_numpy(channels), properties)
    plain = predict.plain_logits(model, made.fused[0], properties["spacing"])
    assert plain.std() > 0.01
    assert plain == pytest.approx(made.logits, rel=1e-3, abs=1e-3)  # rounded to half precision
