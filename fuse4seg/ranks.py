"""The processes that train one model together, as losses and steps see them: one, unless torch.distributed holds more.

Each has an equal slice of every batch. Gradients are averaged, so a loss that is a mean over the batch needs nothing more. What
is no mean takes its sums or means over all ranks (:func:`over_ranks`), and is then the same as of the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

#: Bytes that are sent together.
BUCKET = 32 * 2**20


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return rank() == 0


def own_slice(samples: int) -> range:
    """Places of a batch that this rank has.

    Args:
        samples: Of the whole batch, a multiple of the number of ranks.
    """
    each = samples // world_size()
    return range(rank() * each, (rank() + 1) * each)


class _Mean(torch.autograd.Function):
    """Mean over the ranks, whose gradient goes to the own value as it is: gradients are averaged later, with all others."""

    @staticmethod
    def forward(_context: Any, value: Tensor) -> Tensor:
        mean = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(mean)
        return mean.div_(world_size())

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return gradient


def over_ranks(value: Tensor) -> Tensor:
    r"""Mean of a value over all ranks, for a loss that is not linear in what a batch's samples add up to.

    With :math:`L = g(m)`, :math:`m = \frac{1}{W} \sum_w m_w`, the gradients that are averaged later are those of L if rank w's is
    :math:`g'(m) \nabla m_w`: so the gradient passes as if there were no mean. All ranks must call it as often.

    Args:
        value: Of any shape; whole numbers (counts) become floating-point ones.

    Returns:
        The same shape; ``value`` itself where there is one rank.

    Example:
        >>> over_ranks(torch.tensor(3.0))
        tensor(3.)
    """
    if world_size() == 1:
        return value
    return _Mean.apply(value if value.is_floating_point() else value.to(torch.get_default_dtype()))


def mean_of_all(values: Tensor) -> Tensor:
    """Mean of all ranks' values, of which each may have another number, or none; each rank's part of it, to be averaged.

    Args:
        values: Any shape.

    Example:
        >>> mean_of_all(torch.tensor([1.0, 3.0]))
        tensor(2.)
    """
    if world_size() == 1:
        return values.mean()
    return values.sum() / over_ranks(torch.tensor(float(values.numel()), device=values.device))


def averaged(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Mean of each tensor over the ranks, which give as many of the same shapes; the tensors themselves where there is one."""
    count = world_size()
    if count == 1:
        return list(tensors)
    means: list[Tensor] = []
    for bucket in _buckets(tensors):
        together = torch.cat([tensor.reshape(-1) for tensor in bucket])
        dist.all_reduce(together)
        parts = together.div_(count).split([tensor.numel() for tensor in bucket])
        means += [part.view(tensor.shape) for part, tensor in zip(parts, bucket, strict=True)]
    return means


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one type, up to BUCKET together or one that is larger."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (bucket[0].dtype != tensor.dtype or size + tensor.nbytes > BUCKET):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket


def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace the gradients that there are by their means over the ranks."""
    taught = [parameter for parameter in parameters if parameter.grad is not None]
    for parameter, gradient in zip(taught, averaged([parameter.grad for parameter in taught]), strict=True):
        parameter.grad = gradient


def mean_report(report: dict[str, Tensor]) -> dict[str, float]:
    """Losses as numbers, each the mean over the ranks, which report the same ones."""
    numbers = {name: float(value) for name, value in report.items()}
    if world_size() == 1:
        return numbers
    return dict(zip(numbers, (_reduced(list(numbers.values()), dist.ReduceOp.SUM) / world_size()).tolist(), strict=True))


def largest(*numbers: float) -> list[float]:
    """Of each number the largest that any rank has: how ranks agree on what one of them noticed."""
    return list(numbers) if world_size() == 1 else _reduced(numbers, dist.ReduceOp.MAX).tolist()


def summed(values: Tensor) -> Tensor:
    """Sum over the ranks, without a gradient; the tensor itself where there is one."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total


def _reduced(numbers: Sequence[float], operation: Any) -> Tensor:
    # On the CPU, whatever the networks are on: nothing waits for a device.
    together = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(together, operation)
    return together


def of_each(thing: Any) -> list[Any]:
    """What each rank gives, in their order: anything that can be pickled."""
    things = [thing] * world_size()
    if len(things) > 1:
        dist.all_gather_object(things, thing)
    return things


def of_first(thing: Any) -> Any:
    """What the first rank gives."""
    things = [thing]
    if world_size() > 1:
        dist.broadcast_object_list(things)
    return things[0]


def take_from_first(tensors: Sequence[Tensor]) -> None:
    """Make tensors what they are on the first rank."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def wait_for_all() -> None:
    """Go on when every rank is here."""
    if world_size() > 1:
        largest(0)
