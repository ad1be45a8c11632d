r"""Hypergradients: how the leader's objective changes when the follower is free to answer.

Leader x with upper objective F(x, y), follower y with lower objective f(x, y). All functions are pure: they evaluate objectives,
return gradients, and change nothing. Whatever x is, parameters or the image made by them, it is taken as it stands: what it was
made from is no part of the graph.

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
#: An objective on one batch, of x and y.
Whole = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
#: The sum of F and f on disjoint halves of a batch: of x and y in F, then of x and y in f.
Halves = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], Tensor]


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


def _leaves(tensors: Sequence[Tensor]) -> Vector:
    """The same values, without a copy, where gradients end."""
    return [tensor.detach().requires_grad_() for tensor in tensors]


def joint(objective: Whole, *, leader: Sequence[Tensor], follower: Sequence[Tensor],
          damping: float = DEFAULT_DAMPING, average: Average = list) -> Hypergradient:
    r"""The direct gradient alone, :math:`\nabla_x F`: the follower's answer is ignored.

    So both objectives may be those of one batch, and one backward pass serves both levels: nothing in F but the loss that is f
    depends on the follower, so that :math:`\nabla_y F = \nabla_y f`.

    Args:
        objective: F.
        leader: x.
        follower: y.
        damping: Not used; all estimators take the same arguments.
        average: What the follower's gradients are averaged by, of several ranks; the leader's is each one's own.

    Source: paper Eq. 6 and 7.
    """
    arguments = _leaves(leader), _leaves(follower)
    direct, upper_y = _gradients(objective(*arguments), arguments)
    upper_y = average(upper_y)
    return Hypergradient(direct, upper_y, upper_y, None)


def gauss_newton(objective: Halves, *, leader: Sequence[Tensor], follower: Sequence[Tensor],
                 damping: float = DEFAULT_DAMPING, average: Average = list) -> Hypergradient:
    r"""First-order answer of the follower.

    .. math:: \nabla_x F - r \nabla_x f, \quad
              r = \frac{\nabla_y f \cdot \nabla_y F}{\nabla_y f \cdot \nabla_y f + damping}

    F and f must come from disjoint halves: on one batch r is 1 and the task's gradient cancels. A loss that takes a batch as a
    whole, as nnU-Net's Dice does, may be the sum of both: each level's gradients are those in its own arguments.

    Args:
        objective: F + f.
        leader: x.
        follower: y.
        damping: Above 0; keeps r finite where the lower gradient vanishes.
        average: What the follower's gradients are averaged by, of several ranks, before r is computed; the leader's is each
            one's own.

    Source: paper Eq. 4 and 5 as method.md, "The bi-level step", reads them.
    """
    arguments = _leaves(leader), _leaves(follower), _leaves(leader), _leaves(follower)
    direct, upper_y, indirect, lower_y = _gradients(objective(*arguments), arguments)
    upper_y, lower_y = average(upper_y), average(lower_y)
    ratio = inner_product(lower_y, upper_y) / (inner_product(lower_y, lower_y) + damping)
    return Hypergradient(_minus(direct, indirect, times=ratio), lower_y, upper_y, ratio)


Estimator = Callable[..., Hypergradient]

#: By their names in recipes.
ESTIMATORS: dict[str, Estimator] = {"joint": joint, "gauss_newton": gauss_newton, "none": joint}
#: Estimators under which the leader learns nothing from the task: what the follower is shown has no graph to the leader.
DETACHED = frozenset({"none"})
#: From the least memory to the most: ``none`` has no graph of the leader's, ``gauss_newton`` two gradients of the follower.
BY_MEMORY = ("none", "joint", "gauss_newton")
#: Estimators that compare the two objectives, which then come from disjoint halves of a batch (method.md, "The bi-level step").
NEEDS_HALVES = frozenset({"gauss_newton"})
