"""The reading loss: against scikit-learn's mean squared error, and which cases count."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import mean_squared_error

from fuse4seg.losses.reading import reading_loss


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    """What was read, and the sources: two cases of three modalities."""
    random = torch.Generator().manual_seed(0)
    return tuple(torch.rand(2, 3, 6, 5, generator=random) for _ in range(2))


class TestReadingLoss:
    def test_is_the_mean_squared_error(self, images: tuple[torch.Tensor, torch.Tensor]) -> None:
        read, sources = (part.flatten().numpy() for part in images)
        assert reading_loss(*images).item() == pytest.approx(mean_squared_error(sources, read), rel=1e-5)

    def test_is_of_the_cases_that_lack_nothing(self, images: tuple[torch.Tensor, torch.Tensor]) -> None:
        present = torch.tensor([[True, True, True], [True, False, True]])
        torch.testing.assert_close(reading_loss(*images, present=present), reading_loss(*(part[:1] for part in images)))

    def test_is_nothing_where_every_case_lacks_something(self, images: tuple[torch.Tensor, torch.Tensor]) -> None:
        read, sources = images
        read.requires_grad_()
        loss = reading_loss(read, sources, present=torch.tensor([[True, True, False], [True, False, True]]))
        loss.backward()
        assert (loss.item(), read.grad.abs().max()) == (0, 0)

    def test_is_zero_where_all_is_read_as_it_is(self, images: tuple[torch.Tensor, torch.Tensor]) -> None:
        assert reading_loss(images[1], images[1]).item() == 0

    def test_works_on_volumes(self, images: tuple[torch.Tensor, torch.Tensor]) -> None:
        volumes = [part.unsqueeze(2).repeat(1, 1, 3, 1, 1) for part in images]
        torch.testing.assert_close(reading_loss(*volumes), reading_loss(*images))
