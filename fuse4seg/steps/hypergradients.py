r"""Hypergradients: how the leader's objective changes when the follower is free to answer.

Leader x with upper objective F(x, y), follower y with lower objective f(x, y). All functions are pure: they evaluate the two
objectives for follower parameters of their choosing, return gradients, and change nothing. Whatever x is, parameters or the
image made by them, upper and lower may not share a graph.

Source: method.md, "The bi-level step".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

#: Added to the squared norm that the Gauss-Newton ratio divides by. Gradient norms of a segmentation loss lie around
#: 0.1 to 10.
DEFAULT_DAMPING = 1e-3

Vector = list[Tensor]
#: Gives each tensor's mean over the ranks that train together.
Average = Callable[[Sequence[Tensor]], Vector]
#: An objective as a function of the follower's parameters, with a graph to them and to the leader's.
Objective = Callable[[Sequence[Tensor]], Tensor]


class Hypergradient(NamedTuple):
    """Gradients of one bi-level step.

    Attributes:
        leader: Estimate of dF/dx, one tensor per leader parameter.
        lower: Gradient of f in y, one tensor per follower parameter (``joint``: that of F, which on one batch is the same).
        upper: Gradient of F in y, one tensor per follower parameter.
        ratio: The Gauss-Newton ratio r, or None where the estimator has none.
    """

    leader: Vector
    lower: Vector
    upper: Vector
    ratio: Tensor | None


def _gradients(loss: Tensor, groups: Sequence[Sequence[Tensor]]) -> list[Vector]:
    """Gradients of ``loss`` for groups of parameters from one backward pass; 0 where a parameter has no part in it."""
    parameters = [parameter for group in groups for parameter in group]
    flat = iter(torch.autograd.grad(loss, parameters, materialize_grads=True, allow_unused=True))
    return [[next(flat) for _ in group] for group in groups]


def inner_product(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Sum of all element-wise products, in float32 at least."""
    wide = [torch.promote_types(a.dtype, torch.float32) for a in first]
    products = [(a.to(dtype) * b.to(dtype)).sum() for a, b, dtype in zip(first, second, wide, strict=True)]
    return torch.stack(products).sum()


def _minus(first: Sequence[Tensor], second: Sequence[Tensor], *, times: Tensor | float = 1.0) -> Vector:
    """``first - times * second``, in the types of ``first``."""
    return [(a - times * b).to(a.dtype) for a, b in zip(first, second, strict=True)]


def joint(upper: Objective, lower: Objective, *, leader: Sequence[Tensor], follower: Sequence[Tensor],
          damping: float = DEFAULT_DAMPING, average: Average = list) -> Hypergradient:
    r"""The direct gradient alone, :math:`\nabla_x F`: the follower's answer is ignored.

    So both objectives may be those of one batch, and one backward pass serves both levels: nothing in F but the loss that is f
    depends on the follower, so that :math:`\nabla_y F = \nabla_y f`.

    Args:
        upper: F, of the follower's parameters.
        lower: Not used: F and f are on one batch.
        leader: Parameters x.
        follower: Parameters y.
        damping: Not used; all estimators take the same arguments.
        average: What the follower's gradients are averaged by, of several ranks; the leader's is each one's own.

    Source: paper Eq. 6 and 7.
    """
    direct, upper_y = _gradients(upper(follower), (leader, follower))
    upper_y = average(upper_y)
    return Hypergradient(direct, upper_y, upper_y, None)


def gauss_newton(upper: Objective, lower: Objective, *, leader: Sequence[Tensor], follower: Sequence[Tensor],
                 damping: float = DEFAULT_DAMPING, average: Average = list) -> Hypergradient:
    r"""First-order answer of the follower.

    .. math:: \nabla_x F - r \nabla_x f, \quad
              r = \frac{\nabla_y f \cdot \nabla_y F}{\nabla_y f \cdot \nabla_y f + damping}

    The two objectives must come from disjoint batches: on one batch r is 1 and the task's gradient cancels.

    Args:
        upper: F, of the follower's parameters.
        lower: f, of the follower's parameters.
        leader: Parameters x.
        follower: Parameters y.
        damping: Above 0; keeps r finite where the lower gradient vanishes.
        average: What the follower's gradients are averaged by, of several ranks, before r is computed; the leader's is each
            one's own.

    Source: paper Eq. 4 and 5 as method.md, "The bi-level step", reads them.
    """
    direct, upper_y = _gradients(upper(follower), (leader, follower))
    upper_y = average(upper_y)
    indirect, lower_y = _gradients(lower(follower), (leader, follower))
    lower_y = average(lower_y)
    ratio = inner_product(lower_y, upper_y) / (inner_product(lower_y, lower_y) + damping)
    return Hypergradient(_minus(direct, indirect, times=ratio), lower_y, upper_y, ratio)


Estimator = Callable[..., Hypergradient]

#: By their names in recipes.
ESTIMATORS: dict[str, Estimator] = {"joint": joint, "gauss_newton": gauss_newton, "none": joint}
#: Estimators under which the leader learns nothing from the task: what the follower is shown has no graph to the leader.
DETACHED = frozenset({"none"})
#: From the least memory to the most: ``gauss_newton`` has half of a batch in the follower at a time, ``joint`` the whole.
BY_MEMORY = ("gauss_newton", "none", "joint")
#: Estimators that compare the two objectives, which then come from disjoint halves of a batch (method.md, "The bi-level step").
NEEDS_HALVES = frozenset({"gauss_newton"})
