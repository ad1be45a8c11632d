r"""Hypergradients: how the leader's objective changes when the follower is free to answer.

Leader x with upper objective F(x, y), follower y with lower objective f(x, y). All functions are pure: they read the
graphs of the two losses, which may not share a part and are spent afterwards, return gradients, and change nothing.

Source: method.md, "Our reading".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

#: Added to the squared norm that the Gauss-Newton ratio divides by. Gradient norms of a segmentation loss lie around
#: 0.1 to 10.
DEFAULT_DAMPING = 1e-3


class Hypergradient(NamedTuple):
    """Gradients of one bi-level step.

    Attributes:
        leader: Estimate of dF/dx, one tensor per leader parameter.
        lower: Gradient of f in y, one tensor per follower parameter.
        upper: Gradient of F in y, one tensor per follower parameter.
        ratio: The Gauss-Newton ratio r, or None where the estimator has none.
    """

    leader: list[Tensor]
    lower: list[Tensor]
    upper: list[Tensor]
    ratio: Tensor | None


def _gradients(loss: Tensor, groups: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """Gradients of ``loss`` for groups of parameters from one backward pass; 0 where a parameter has no part in it."""
    parameters = [parameter for group in groups for parameter in group]
    flat = iter(torch.autograd.grad(loss, parameters, materialize_grads=True, allow_unused=True))
    return [[next(flat) for _ in group] for group in groups]


def inner_product(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Sum of all element-wise products, in float32 at least."""
    wide = [torch.promote_types(a.dtype, torch.float32) for a in first]
    products = [(a.to(dtype) * b.to(dtype)).sum() for a, b, dtype in zip(first, second, wide, strict=True)]
    return torch.stack(products).sum()


def joint(upper_loss: Tensor, lower_loss: Tensor, *, leader: Sequence[Tensor], follower: Sequence[Tensor],
          damping: float = DEFAULT_DAMPING) -> Hypergradient:
    r"""The direct gradient alone, :math:`\nabla_x F`: the follower's answer is ignored.

    Args:
        upper_loss: Scalar F with a graph to leader and follower.
        lower_loss: Scalar f with a graph to the follower; the leader may be cut off.
        leader: Parameters x.
        follower: Parameters y.
        damping: Not used; all estimators take the same arguments.

    Source: paper Eq. 6 and 7.
    """
    direct, upper = _gradients(upper_loss, (leader, follower))
    (lower,) = _gradients(lower_loss, (follower,))
    return Hypergradient(direct, lower, upper, None)


def gauss_newton(upper_loss: Tensor, lower_loss: Tensor, *, leader: Sequence[Tensor], follower: Sequence[Tensor],
                 damping: float = DEFAULT_DAMPING) -> Hypergradient:
    r"""First-order answer of the follower.

    .. math:: \nabla_x F - r \nabla_x f, \quad
              r = \frac{\nabla_y f \cdot \nabla_y F}{\nabla_y f \cdot \nabla_y f + damping}

    The two losses must come from disjoint batches: on one batch r is 1 and the task's gradient cancels.

    Args:
        upper_loss: Scalar F with a graph to leader and follower.
        lower_loss: Scalar f with a graph to leader and follower.
        leader: Parameters x.
        follower: Parameters y.
        damping: Above 0; keeps r finite where the lower gradient vanishes.

    Source: paper Eq. 4 and 5 as method.md reads them.
    """
    direct, upper = _gradients(upper_loss, (leader, follower))
    response, lower = _gradients(lower_loss, (leader, follower))
    ratio = inner_product(lower, upper) / (inner_product(lower, lower) + damping)
    total = [d - ratio.to(d.dtype) * s for d, s in zip(direct, response, strict=True)]
    return Hypergradient(total, lower, upper, ratio)


Estimator = Callable[..., Hypergradient]

#: By name, as ``f4s_train --hypergradient`` takes them.
ESTIMATORS: dict[str, Estimator] = {"joint": joint, "gauss_newton": gauss_newton}
#: Estimators that differentiate the lower loss for the leader, too.
NEEDS_LOWER_LEADER_GRAPH = frozenset({"gauss_newton"})
