"""Loss of the auxiliary head: the labels it is held against, and its value by hand."""

from __future__ import annotations

import math

import torch
from torch import nn

from fuse4seg.steps.bilevel import AuxiliaryLoss, labels_at


class TestLabelsAt:
    def test_takes_the_deep_supervision_target_of_that_size(self) -> None:
        targets = [torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)]
        assert labels_at((4, 4), targets) is targets[1]

    def test_takes_a_single_target_of_that_size_as_it_is(self) -> None:
        target = torch.ones(1, 1, 4, 4)
        assert labels_at((4, 4), target) is target

    def test_thins_out_the_finest_target_where_none_fits(self) -> None:
        target = torch.arange(16.0).reshape(1, 1, 4, 4)
        assert torch.equal(labels_at((2, 2), [target]), target[..., ::2, ::2])

    def test_invents_no_labels_between_labels(self) -> None:
        target = torch.tensor([0, 3]).repeat(8).reshape(1, 1, 4, 4)
        assert set(labels_at((3, 3), target).unique().tolist()) <= {0.0, 3.0}


class TestAuxiliaryLoss:
    def test_is_the_loss_of_the_heads_logits_on_the_labels(self) -> None:
        loss = AuxiliaryLoss(nn.Identity(), lambda logits, labels: nn.functional.cross_entropy(logits, labels[:, 0].long()))
        logits = torch.tensor([0.0, math.log(3)]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4)
        assert torch.isclose(loss(logits, torch.ones(1, 1, 4, 4)), torch.tensor(math.log(4 / 3)))

    def test_is_taken_at_the_resolution_of_the_features(self) -> None:
        seen = []
        loss = AuxiliaryLoss(nn.Identity(), lambda logits, labels: seen.append(labels) or logits.mean())
        loss(torch.zeros(1, 2, 4, 4), [torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 4, 4)])
        assert torch.equal(seen[0], torch.ones(1, 1, 4, 4))
