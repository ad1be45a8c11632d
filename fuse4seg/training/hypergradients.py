r"""Hypergradients: how the leader's objective changes when the follower is free to answer.

Leader x with upper objective F(x, y), follower y with lower objective f(x, y). All functions are pure: they evaluate the two
objectives for follower parameters of their choosing, return gradients, and change nothing. An objective's evaluations may
share what does not depend on the follower (the fused image); upper and lower may not share a graph.

Source: method.md, "Our reading".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

#: Added to the squared norm that the Gauss-Newton ratio divides by. Gradient norms of a segmentation loss lie around
#: 0.1 to 10.
DEFAULT_DAMPING = 1e-3
#: Distance of the two points that ``unrolled`` takes its finite difference between, from the one in their middle (Liu et
#: al., DARTS, 2019, footnote 2).
DIFFERENCE = 1e-2

Vector = list[Tensor]
#: An objective as a function of the follower's parameters, with a graph to them and to the leader's.
Objective = Callable[[Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class Response:
    """How the follower is taken to answer the leader.

    Attributes:
        damping: Of the Gauss-Newton ratio, above 0.
        rate: The follower's learning rate, for ``unrolled`` and ``neumann``.
        products: Hessian-vector products of ``neumann`` and ``cg``, at least 1.
        curvature_damping: Added to the lower objective's Hessian by ``cg``, which a network far from its optimum does not keep
            positive; 1 lets the follower answer about as far as momentum 0.99 at rate 0.01 lets it move.
        scale: What both objectives were multiplied by (mixed precision). The gradients come out multiplied by it, and are
            otherwise the same.
    """

    damping: float = DEFAULT_DAMPING
    rate: float = 1e-2
    products: int = 5
    curvature_damping: float = 1.0
    scale: float = 1.0


class Hypergradient(NamedTuple):
    """Gradients of one bi-level step.

    Attributes:
        leader: Estimate of dF/dx, one tensor per leader parameter.
        lower: Gradient of f in y, one tensor per follower parameter (``joint``: that of F, which on one batch is the same).
        upper: Gradient of F in y, one tensor per follower parameter (``unrolled``: after the follower's step).
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
          response: Response = Response()) -> Hypergradient:
    r"""The direct gradient alone, :math:`\nabla_x F`: the follower's answer is ignored.

    So both objectives may be those of one batch, and one backward pass serves both levels: nothing in F but the loss that is f
    depends on the follower, so that :math:`\nabla_y F = \nabla_y f`.

    Args:
        upper: F, of the follower's parameters.
        lower: Not used: F and f are on one batch.
        leader: Parameters x.
        follower: Parameters y.
        response: Not used; all estimators take the same arguments.

    Source: paper Eq. 6 and 7.
    """
    direct, upper_y = _gradients(upper(follower), (leader, follower))
    return Hypergradient(direct, upper_y, upper_y, None)


def gauss_newton(upper: Objective, lower: Objective, *, leader: Sequence[Tensor], follower: Sequence[Tensor],
                 response: Response = Response()) -> Hypergradient:
    r"""First-order answer of the follower.

    .. math:: \nabla_x F - r \nabla_x f, \quad
              r = \frac{\nabla_y f \cdot \nabla_y F}{\nabla_y f \cdot \nabla_y f + damping}

    The two objectives must come from disjoint batches: on one batch r is 1 and the task's gradient cancels.

    Args:
        upper: F, of the follower's parameters.
        lower: f, of the follower's parameters.
        leader: Parameters x.
        follower: Parameters y.
        response: Its damping keeps r finite where the lower gradient vanishes.

    Source: paper Eq. 4 and 5 as method.md reads them.
    """
    direct, upper_y = _gradients(upper(follower), (leader, follower))
    indirect, lower_y = _gradients(lower(follower), (leader, follower))
    ratio = inner_product(lower_y, upper_y) / (inner_product(lower_y, lower_y) + response.damping * response.scale**2)
    return Hypergradient(_minus(direct, indirect, times=ratio), lower_y, upper_y, ratio)


def unrolled(upper: Objective, lower: Objective, *, leader: Sequence[Tensor], follower: Sequence[Tensor],
             response: Response = Response()) -> Hypergradient:
    r"""The follower answers with one step, :math:`y' = y - \eta \nabla_y f(x, y)`.

    .. math:: \nabla_x F(x, y') - \eta \nabla^2_{xy} f(x, y) \, v, \quad v = \nabla_{y'} F(x, y'), \quad
              \nabla^2_{xy} f \, v \approx \frac{\nabla_x f(x, y + \epsilon v) - \nabla_x f(x, y - \epsilon v)}{2 \epsilon}

    The finite difference needs full precision: the two points differ by less than half precision can tell apart.

    Args:
        upper: F, of the follower's parameters.
        lower: f, of the follower's parameters.
        leader: Parameters x.
        follower: Parameters y.
        response: Its rate is eta.

    Source: method.md, "Our reading" (the DARTS form: Liu et al., 2019, Eq. 7 and 8).
    """
    rate = response.rate / response.scale
    (lower_y,) = _gradients(lower(follower), (follower,))
    ahead = [point.detach().requires_grad_() for point in _minus(follower, lower_y, times=rate)]
    direct, upper_y = _gradients(upper(ahead), (leader, ahead))
    length = inner_product(upper_y, upper_y).sqrt()
    # Where the upper objective is flat for the follower, its answer does not matter: the difference below is 0 then.
    step = DIFFERENCE / length.clamp_min(torch.finfo(length.dtype).tiny)
    behind, before = ([point.detach() for point in _minus(follower, upper_y, times=side * step)] for side in (1, -1))
    (difference,) = _gradients(lower(before) - lower(behind), (leader,))
    return Hypergradient(_minus(direct, difference, times=rate * length / (2 * DIFFERENCE)), lower_y, upper_y, None)


def neumann(upper: Objective, lower: Objective, *, leader: Sequence[Tensor], follower: Sequence[Tensor],
            response: Response = Response()) -> Hypergradient:
    r"""Implicit differentiation, the inverse Hessian as a Neumann series with K Hessian-vector products.

    .. math:: \nabla_x F - \nabla^2_{xy} f \, v, \quad v = \eta \sum_{k=0}^{K} (I - \eta \nabla^2_{yy} f)^k \nabla_y F

    Args:
        upper: F, of the follower's parameters.
        lower: f, of the follower's parameters.
        leader: Parameters x.
        follower: Parameters y.
        response: Its rate eta must lie below 2 over the Hessian's largest eigenvalue; its products are K.

    Source: method.md, "Our reading" (Lorraine et al., Optimizing Millions of Hyperparameters by Implicit Differentiation, 2020).
    """
    rate = response.rate / response.scale

    def solve(hessian: Callable[[Vector], Vector], right: Vector) -> Vector:
        term = [rate * part for part in right]
        total = term
        for _ in range(response.products):
            term = _minus(term, hessian(term), times=rate)
            total = _minus(total, term, times=-1)
        return total

    return _implicit(upper, lower, solve, leader=leader, follower=follower)


def cg(upper: Objective, lower: Objective, *, leader: Sequence[Tensor], follower: Sequence[Tensor],
       response: Response = Response()) -> Hypergradient:
    r"""Implicit differentiation, the damped Hessian inverted by conjugate gradients.

    .. math:: \nabla_x F - \nabla^2_{xy} f \, v, \quad (\nabla^2_{yy} f + \mu I) \, v = \nabla_y F

    Stops early where it has converged, and where the curvature is not positive (Steihaug's rule).

    Args:
        upper: F, of the follower's parameters.
        lower: f, of the follower's parameters.
        leader: Parameters x.
        follower: Parameters y.
        response: Its curvature_damping is mu, its products the iterations.

    Source: method.md, "Our reading" (Rajeswaran et al., Meta-Learning with Implicit Gradients, 2019).
    """
    damping = response.curvature_damping * response.scale

    def solve(hessian: Callable[[Vector], Vector], right: Vector) -> Vector:
        solution, residual, direction = [torch.zeros_like(part) for part in right], right, right
        squared = inner_product(residual, residual)
        for _ in range(response.products):
            turned = _minus(hessian(direction), direction, times=-damping)
            curvature = inner_product(direction, turned)
            if not (squared > 0 and curvature > 0):
                break
            length = squared / curvature
            solution = _minus(solution, direction, times=-length)
            residual = _minus(residual, turned, times=length)
            before, squared = squared, inner_product(residual, residual)
            direction = _minus(residual, direction, times=-squared / before)
        return solution

    return _implicit(upper, lower, solve, leader=leader, follower=follower)


def _implicit(upper: Objective, lower: Objective, solve: Callable[[Callable[[Vector], Vector], Vector], Vector], *,
              leader: Sequence[Tensor], follower: Sequence[Tensor]) -> Hypergradient:
    """Implicit differentiation; ``solve`` divides the upper gradient by the Hessian, given as its product with a vector."""
    direct, upper_y = _gradients(upper(follower), (leader, follower))
    lower_y = torch.autograd.grad(lower(follower), list(follower), create_graph=True, allow_unused=True, materialize_grads=True)

    def times(vector: Sequence[Tensor], parameters: Sequence[Tensor], *, keep: bool) -> Vector:
        """Derivatives in ``parameters`` of the lower gradient's product with ``vector``."""
        curved = [(part, weight) for part, weight in zip(lower_y, vector, strict=True) if part.requires_grad]
        if not curved:  # a lower objective that is linear in the follower
            return [torch.zeros_like(parameter) for parameter in parameters]
        parts, weights = zip(*curved, strict=True)
        return list(torch.autograd.grad(parts, list(parameters), weights, retain_graph=keep, allow_unused=True,
                                        materialize_grads=True))

    answer = solve(lambda vector: times(vector, follower, keep=True), upper_y)
    total = _minus(direct, times(answer, leader, keep=False))
    return Hypergradient(total, [part.detach() for part in lower_y], upper_y, None)


Estimator = Callable[..., Hypergradient]

#: By name, as ``f4s_train --hypergradient`` takes them.
ESTIMATORS: dict[str, Estimator] = {"joint": joint, "gauss_newton": gauss_newton, "unrolled": unrolled, "neumann": neumann,
                                    "cg": cg, "none": joint}
#: Estimators under which the leader learns nothing from the task: what the follower is shown has no graph to the leader.
DETACHED = frozenset({"none"})
#: From the least memory to the most on real plans: ``gauss_newton`` has half of a batch in the follower at a time, ``joint`` the
#: whole; the others are in full precision.
BY_MEMORY = ("gauss_newton", "none", "joint", "unrolled", "neumann", "cg")
#: Estimators that compare the two objectives, which must come from disjoint halves of a batch then (method.md, "Our reading").
NEEDS_HALVES = frozenset(ESTIMATORS) - {"joint", "none"}
#: Estimators that lose their meaning in half precision, and that differentiate the follower twice.
NEEDS_FULL_PRECISION = frozenset({"unrolled", "neumann", "cg"})
SECOND_ORDER = frozenset({"neumann", "cg"})
