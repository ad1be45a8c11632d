"""Hypergradients against a quadratic bi-level problem whose gradients are written down by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch

from fuse4seg.steps.hypergradients import (
    BY_MEMORY,
    DEFAULT_DAMPING,
    DETACHED,
    ESTIMATORS,
    NEEDS_HALVES,
    Objective,
    gauss_newton,
    inner_product,
    joint,
)

LEADER_SIZE, FOLLOWER_SIZE = 6, 4


class Quadratic(NamedTuple):
    r"""q(x, y) = 1/2 x'Ax + x'By + 1/2 y'Cy + a'x + c'y, with symmetric A and C.

    By hand: the gradient in x is Ax + By + a, the gradient in y is B'x + Cy + c.
    """

    A: np.ndarray
    B: np.ndarray
    C: np.ndarray
    a: np.ndarray
    c: np.ndarray

    @classmethod
    def drawn(cls, seed: int) -> Quadratic:
        random = np.random.default_rng(seed)
        squares = [random.normal(size=(n, n)) for n in (LEADER_SIZE, FOLLOWER_SIZE)]
        return cls(squares[0] + squares[0].T, random.normal(size=(LEADER_SIZE, FOLLOWER_SIZE)),
                   squares[1] + squares[1].T, random.normal(size=LEADER_SIZE), random.normal(size=FOLLOWER_SIZE))

    def in_x(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return self.A @ x + self.B @ y + self.a

    def in_y(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return self.B.T @ x + self.C @ y + self.c

    def loss(self, leader: Sequence[torch.Tensor], follower: Sequence[torch.Tensor]) -> torch.Tensor:
        x, y = (torch.cat([part.flatten() for part in parts]) for parts in (leader, follower))
        A, B, C, a, c = map(torch.from_numpy, self)  # noqa: N806 (the formula's names)
        return x @ A @ x / 2 + x @ B @ y + y @ C @ y / 2 + a @ x + c @ y


class Problem(NamedTuple):
    """A point, as numpy vectors and as parameters of several shapes, and both levels' objectives."""

    x: np.ndarray
    y: np.ndarray
    leader: list[torch.Tensor]
    follower: list[torch.Tensor]
    upper: Quadratic
    lower: Quadratic

    @property
    def levels(self) -> dict[str, list[torch.Tensor]]:
        return {"leader": self.leader, "follower": self.follower}

    def objectives(self, scale: float = 1.0) -> tuple[Objective, Objective]:
        return (lambda y: scale * self.upper.loss(self.leader, y)), (lambda y: scale * self.lower.loss(self.leader, y))


def drawn(seed: int) -> Problem:
    random = np.random.default_rng(100 + seed)
    x, y = random.normal(size=LEADER_SIZE), random.normal(size=FOLLOWER_SIZE)
    leader = [torch.tensor(x[:2]), torch.tensor(x[2:]).view(2, 2)]
    follower = [torch.tensor(y[:1]), torch.tensor(y[1:]).view(3, 1)]
    for parameter in [*leader, *follower]:
        parameter.requires_grad_()
    return Problem(x, y, leader, follower, Quadratic.drawn(2 * seed), Quadratic.drawn(2 * seed + 1))


@pytest.fixture(params=range(3))
def problem(request: pytest.FixtureRequest) -> Problem:
    return drawn(request.param)


def flat(tensors: list[torch.Tensor]) -> np.ndarray:
    return torch.cat([tensor.flatten() for tensor in tensors]).numpy()


class TestJoint:
    def test_is_the_direct_gradient_of_the_upper_objective(self, problem: Problem) -> None:
        estimate = joint(*problem.objectives(), **problem.levels)
        np.testing.assert_allclose(flat(estimate.leader), problem.upper.in_x(problem.x, problem.y), rtol=1e-12)
        for level in (estimate.upper, estimate.lower):
            np.testing.assert_allclose(flat(level), problem.upper.in_y(problem.x, problem.y), rtol=1e-12)
        assert estimate.ratio is None

    def test_needs_no_lower_objective_beside_the_upper_one(self, problem: Problem) -> None:
        """Upper: the lower one and what does not depend on the follower, whose gradient the lower one's therefore is."""
        def never(_: Sequence[torch.Tensor]) -> torch.Tensor:
            raise AssertionError

        leader = problem.leader
        estimate = joint(lambda y: problem.lower.loss(leader, y) + sum(part.square().sum() for part in leader), never,
                         **problem.levels)
        np.testing.assert_allclose(flat(estimate.lower), problem.lower.in_y(problem.x, problem.y), rtol=1e-12)


class TestNone:
    def test_leaves_the_leader_what_does_not_pass_through_the_follower(self, problem: Problem) -> None:
        """Of a task that has no graph to the leader: lambda dg/dx, and the follower's whole gradient."""
        shown = [part.detach() for part in problem.leader]

        def upper(follower: Sequence[torch.Tensor]) -> torch.Tensor:
            return problem.lower.loss(shown, follower) + 0.3 * sum((part**3).sum() for part in problem.leader)

        estimate = ESTIMATORS["none"](upper, problem.objectives()[1], **problem.levels)
        np.testing.assert_allclose(flat(estimate.leader), 0.3 * 3 * problem.x**2, rtol=1e-12)
        np.testing.assert_allclose(flat(estimate.lower), problem.lower.in_y(problem.x, problem.y), rtol=1e-12)
        assert estimate.ratio is None


class TestGaussNewton:
    @pytest.mark.parametrize("damping", [DEFAULT_DAMPING, 0.5, 1e-9])
    def test_subtracts_the_follower_s_answer(self, problem: Problem, damping: float) -> None:
        estimate = gauss_newton(*problem.objectives(), **problem.levels, damping=damping)
        upper_y, lower_y = (level.in_y(problem.x, problem.y) for level in (problem.upper, problem.lower))
        ratio = lower_y @ upper_y / (lower_y @ lower_y + damping)
        expected = problem.upper.in_x(problem.x, problem.y) - ratio * problem.lower.in_x(problem.x, problem.y)
        assert estimate.ratio.item() == pytest.approx(ratio, rel=1e-10)
        np.testing.assert_allclose(flat(estimate.leader), expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(flat(estimate.upper), upper_y, rtol=1e-12)
        np.testing.assert_allclose(flat(estimate.lower), lower_y, rtol=1e-12)

    def test_is_exact_where_the_levels_differ_by_a_factor(self) -> None:
        """F = k f with f = 1/2 (y - x)^2: the follower answers y*(x) = x, where F is 0 for every x.

        So the exact hypergradient is 0, where the direct one is -k (y - x).
        """
        x, y, k = torch.tensor([1.0], requires_grad=True), torch.tensor([3.0], requires_grad=True), 2.5
        estimate = gauss_newton(lambda y: k * (y[0] - x).pow(2).sum() / 2, lambda y: (y[0] - x).pow(2).sum() / 2,
                                leader=[x], follower=[y], damping=1e-12)
        assert estimate.ratio.item() == pytest.approx(k)
        assert estimate.leader[0].item() == pytest.approx(0, abs=1e-5)

    def test_on_one_and_the_same_batch_leaves_the_fusion_losses_alone(self, problem: Problem) -> None:
        """F = f + lambda g(x): r is 1, the task cancels, and lambda dg/dx is left (method.md, disjoint batches)."""
        def upper(follower: Sequence[torch.Tensor]) -> torch.Tensor:
            fusion = sum((parameter**3).sum() for parameter in problem.leader)
            return problem.lower.loss(problem.leader, follower) + 0.3 * fusion

        estimate = gauss_newton(upper, problem.objectives()[1], **problem.levels, damping=1e-12)
        assert estimate.ratio.item() == pytest.approx(1, abs=1e-9)
        np.testing.assert_allclose(flat(estimate.leader), 0.3 * 3 * problem.x**2, atol=1e-9)

    def test_is_the_direct_gradient_where_the_follower_is_at_rest(self, problem: Problem) -> None:
        def at_rest(follower: Sequence[torch.Tensor]) -> torch.Tensor:
            return sum((parameter**2).sum() for parameter in problem.leader) + 0 * follower[0].sum()

        estimate = gauss_newton(problem.objectives()[0], at_rest, **problem.levels)
        assert estimate.ratio == 0
        np.testing.assert_allclose(flat(estimate.leader), problem.upper.in_x(problem.x, problem.y), rtol=1e-12)

    def test_stays_finite_where_both_gradients_vanish(self) -> None:
        x, y = torch.ones(2, requires_grad=True), torch.zeros(2, requires_grad=True)
        estimate = gauss_newton(lambda y: x.sum() + y[0].pow(2).sum(), lambda y: x.sum() * y[0].pow(2).sum(),
                                leader=[x], follower=[y])
        assert estimate.ratio == 0
        assert torch.equal(estimate.leader[0], torch.ones(2))

    def test_a_larger_damping_trusts_the_answer_less(self, problem: Problem) -> None:
        ratios = [abs(gauss_newton(*problem.objectives(), **problem.levels, damping=damping).ratio.item())
                  for damping in (1e-6, 1.0, 1e3, 1e9)]
        assert ratios == sorted(ratios, reverse=True)
        assert ratios[-1] < 1e-6


@pytest.mark.parametrize("name", ESTIMATORS)
class TestEveryEstimator:
    def test_changes_nothing(self, name: str, problem: Problem) -> None:
        ESTIMATORS[name](*problem.objectives(), **problem.levels)
        assert all(parameter.grad is None for parameter in [*problem.leader, *problem.follower])
        np.testing.assert_array_equal(flat([parameter.detach() for parameter in problem.leader]), problem.x)
        np.testing.assert_array_equal(flat([parameter.detach() for parameter in problem.follower]), problem.y)

    def test_does_not_read_gradients_that_are_already_there(self, name: str, problem: Problem) -> None:
        before = ESTIMATORS[name](*problem.objectives(), **problem.levels)
        for parameter in [*problem.leader, *problem.follower]:
            parameter.grad = torch.full_like(parameter, 1e3)
        after = ESTIMATORS[name](*problem.objectives(), **problem.levels)
        for first, second in zip(before[:3], after[:3], strict=True):
            np.testing.assert_array_equal(flat(first), flat(second))

    def test_gives_zeros_to_parameters_without_a_part(self, name: str, problem: Problem) -> None:
        idle = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
        objectives = [lambda y, of=of: of(y[:-1]) for of in problem.objectives()]
        estimate = ESTIMATORS[name](*objectives, leader=[idle, *problem.leader], follower=[*problem.follower, idle])
        for gradient in (estimate.leader[0], estimate.lower[-1], estimate.upper[-1]):
            assert torch.equal(gradient, torch.zeros(3, 2, dtype=torch.float64))
        alone = ESTIMATORS[name](*problem.objectives(), **problem.levels)
        np.testing.assert_allclose(flat(estimate.leader[1:]), flat(alone.leader), rtol=1e-12)

    def test_gives_gradients_without_a_graph_in_the_parameters_shapes(self, name: str, problem: Problem) -> None:
        estimate = ESTIMATORS[name](*problem.objectives(), **problem.levels)
        for gradients, parameters in ((estimate.leader, problem.leader), (estimate.lower, problem.follower),
                                      (estimate.upper, problem.follower)):
            assert [gradient.shape for gradient in gradients] == [parameter.shape for parameter in parameters]
            assert not any(gradient.requires_grad for gradient in gradients)

    def test_scaled_objectives_scale_the_gradients_and_nothing_else(self, name: str, problem: Problem) -> None:
        plain = ESTIMATORS[name](*problem.objectives(), **problem.levels)
        scaled = ESTIMATORS[name](*problem.objectives(2.0**12), **problem.levels, damping=DEFAULT_DAMPING * 2.0**24)
        for first, second in zip(plain[:3], scaled[:3], strict=True):
            np.testing.assert_allclose(flat(second), 2.0**12 * flat(first), rtol=1e-9)
        assert (scaled.ratio is None) == (plain.ratio is None)
        if plain.ratio is not None:
            assert scaled.ratio.item() == pytest.approx(plain.ratio.item(), rel=1e-12)


class TestInnerProduct:
    def test_adds_up_all_products_over_all_tensors(self) -> None:
        first, second = ([torch.rand(3, 2), torch.rand(4)] for _ in range(2))
        expected = flat(first).astype(np.float64) @ flat(second).astype(np.float64)
        assert inner_product(first, second).item() == pytest.approx(expected, rel=1e-6)

    def test_does_not_overflow_in_half_precision(self) -> None:
        many = [torch.full((1000,), 10.0, dtype=torch.float16)]
        assert inner_product(many, many) == 100_000

    def test_keeps_double_precision(self) -> None:
        tiny = [torch.tensor([1 + 1e-12], dtype=torch.float64)]
        assert inner_product(tiny, [torch.ones(1, dtype=torch.float64)]).item() == 1 + 1e-12

    def test_refuses_lists_of_different_lengths(self) -> None:
        with pytest.raises(ValueError, match="zip"):
            inner_product([torch.ones(1)], [torch.ones(1)] * 2)


def test_every_estimator_says_what_it_needs() -> None:
    assert set(ESTIMATORS) == {"joint", "gauss_newton", "none"} == set(BY_MEMORY)
    # On one batch the leader learns from the task as it is, or not at all.
    assert set(ESTIMATORS) - NEEDS_HALVES == {"joint"} | DETACHED == {"joint", "none"}
