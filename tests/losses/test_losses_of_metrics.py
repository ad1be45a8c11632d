"""Laws of the losses that are metrics: SSIM, VIF and SCD against the metrics themselves, and where modalities are absent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fuse4seg.evaluation.grey_statistics import scd
from fuse4seg.evaluation.ssim import ssim
from fuse4seg.evaluation.vif import vif
from fuse4seg.losses.scd import scd_loss
from fuse4seg.losses.ssim import ssim_loss
from fuse4seg.losses.vif import vif_loss

Images = Callable[..., torch.Tensor]
Loss = Callable[..., torch.Tensor]
every_loss = pytest.mark.parametrize("loss", [ssim_loss, vif_loss, scd_loss])


def grey(images: torch.Tensor) -> list[np.ndarray]:
    return list(255 * images.double().numpy())


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize(("loss", "metric", "within"), [(ssim_loss, ssim, 1e-5), (vif_loss, vif, 2e-3), (scd_loss, scd, 1e-3)])
def test_is_one_less_the_metric_s_share_of_each_source(loss: Loss, metric: Callable[..., float], within: float, modalities: int,
                                                       smooth_images: Images) -> None:
    """The metric sums over two sources, and is the mean of that over all pairs of more."""
    sources = smooth_images(1, modalities, 64, 72)
    fused = (sources.amax(dim=1, keepdim=True) + smooth_images(1, 1, 64, 72, seed=1) / 3).clamp(0, 1)
    expected = 1 - metric(grey(fused[0])[0], grey(sources[0])) / 2
    assert loss(fused, sources).item() == pytest.approx(expected, abs=within)


@every_loss
def test_is_the_mean_over_cases_and_the_modalities_they_have(loss: Loss, smooth_images: Images) -> None:
    sources, fused = smooth_images(2, 3, 48, 44), smooth_images(2, 1, 48, 44, seed=1)
    present = torch.tensor([[True, True, False], [False, True, True]])
    each = [loss(fused[case:case + 1], sources[case:case + 1, present[case]]) for case in range(2)]
    found = loss(fused, sources * present.view(2, 3, 1, 1), present=present)
    torch.testing.assert_close(found, torch.stack(each).mean())


@every_loss
def test_does_not_depend_on_the_order_of_sources(loss: Loss, smooth_images: Images) -> None:
    sources, fused = smooth_images(1, 3, 48, 44), smooth_images(1, 1, 48, 44, seed=1)
    torch.testing.assert_close(loss(fused, sources.flip(1)), loss(fused, sources))


@every_loss
def test_has_a_finite_gradient_on_constant_images(loss: Loss) -> None:
    fused = torch.zeros(1, 1, 44, 44, requires_grad=True)
    loss(fused, torch.zeros(1, 2, 44, 44)).backward()
    assert fused.grad.isfinite().all()


@every_loss
def test_goes_down_along_its_gradient(loss: Loss, smooth_images: Images) -> None:
    sources = smooth_images(1, 2, 44, 44)
    fused = smooth_images(1, 1, 44, 44, seed=1).requires_grad_()
    before = loss(fused, sources)
    before.backward()
    step = fused.grad * (1e-3 / fused.grad.abs().max())
    assert loss(fused.detach() - step, sources) < before
