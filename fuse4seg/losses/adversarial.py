"""Adversarial losses: an image looks like a modality when that modality's discriminator takes it for real."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import softplus

from fuse4seg.ranks import mean_of_all


def generator_loss(logits: Sequence[Tensor]) -> Tensor:
    r"""Log-probability of being found out, summed over the modalities: what the maker of the images minimises.

    .. math:: \sum_i E[\log(1 - D_i(\hat{M}_i))], \quad \log(1 - \sigma(z)) = -\mathrm{softplus}(z)

    Args:
        logits: One discriminator's patch logits z per modality for its made image, any shape; at least one.

    Returns:
        Scalar, at most 0. Finite for any finite logit, where the formula as written overflows.

    Source: paper Eq. 10.

    Example:
        >>> generator_loss([torch.zeros(1, 1, 4, 4)])  # the discriminator is undecided: log 1/2
        tensor(-0.6931)
    """
    return sum(-mean_of_all(softplus(made)) for made in logits)


def discriminator_loss(real_logits: Sequence[Tensor], fake_logits: Sequence[Tensor]) -> Tensor:
    r"""Negative log-likelihood of telling real from made images, summed over the modalities.

    .. math:: -\sum_i E[\log D_i(M_i)] + E[\log(1 - D_i(\hat{M}_i))]

    Args:
        real_logits: One discriminator's patch logits per modality for the modality itself, any shape; at least one.
        fake_logits: The same for the made images; detach these from the network that made them.

    Returns:
        Scalar, at least 0; log 4 per modality where the discriminator is undecided.

    Raises:
        ValueError: There are not equally many of both.

    Source: paper Eq. 10, the discriminators' side.

    Example:
        >>> discriminator_loss([torch.zeros(1, 1, 4, 4)], [torch.zeros(1, 1, 4, 4)])  # undecided: log 4
        tensor(1.3863)
    """
    pairs = zip(real_logits, fake_logits, strict=True)
    return sum(mean_of_all(softplus(-real)) + mean_of_all(softplus(fake)) for real, fake in pairs)
