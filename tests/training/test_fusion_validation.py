"""Fusion losses of validation cases: those of the whole fused images that prediction writes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from fuse4seg.inference.sliding_window import fuse_whole_image
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.training.fusion_validation import fusion_losses_of_fold

CASES = {name: torch.randn(2, 3, 20, 18, generator=torch.Generator().manual_seed(seed)).numpy()
         for seed, name in enumerate(("a", "b"))}
PATCH = [16, 16]


class Dataset:
    def __init__(self, _folder: str, identifiers: list[str]) -> None:
        self.identifiers = identifiers

    def load_case(self, case: str) -> tuple[np.ndarray, None, None, dict]:
        return CASES[case], None, None, {}


@pytest.fixture
def model() -> FuseThenSegment:
    strides = [[1, 1], [2, 2]]
    follower = {"network_class_name": "torch.nn.Identity", "arch_kwargs": {}, "_kw_requires_import": []}
    model = FuseThenSegment(2, 1, conv_op=nn.Conv2d, strides=strides, windows=[[-2, 2]] * 2, follower=follower,
                            fusion={"detail_features": 4, "base_features": 8, "couplings": 1, "transformers": 1})
    model.fusion.initialise()
    return model


def test_are_the_means_over_the_fold_s_cases(model: FuseThenSegment) -> None:
    trainer = SimpleNamespace(network=model, do_split=lambda: (["c"], ["a", "b"]), dataset_class=Dataset, device="cpu",
                              preprocessed_dataset_folder="", configuration_manager=SimpleNamespace(patch_size=PATCH))
    losses = fusion_losses_of_fold(trainer)

    intensities = []
    for channels in CASES.values():
        fused = fuse_whole_image(model.eval(), torch.from_numpy(channels), patch_size=PATCH, device="cpu").fused.numpy()
        brightest = np.clip((channels + 2) / 4, 0, 1).max(axis=0)
        seen_as_grey = 0.299 * fused[0] + 0.587 * fused[1] + 0.114 * fused[2]
        intensities.append(np.abs(seen_as_grey - brightest).mean())
    assert losses["intensity"] == pytest.approx(np.mean(intensities), rel=1e-4)
    assert 0 < losses["texture"] < 1
    assert losses.keys() == {"intensity", "texture", "edges", "ssim", "balance", "vif", "scd"}
