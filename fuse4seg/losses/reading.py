"""Reading loss: what is read from the fused image of each modality is that modality."""

from __future__ import annotations

from torch import Tensor

from fuse4seg.losses.presence import mean_of_present


def reading_loss(read: Tensor, sources: Tensor, *, present: Tensor | None = None) -> Tensor:
    r"""Mean square of what is read less what there is.

    .. math:: \frac{1}{N} \sum_i \frac{1}{|\Omega|} \lVert R_i(\theta) - M_i \rVert_2^2

    Reading undoes the mixture that the leader starts from. What the leader mixes otherwise is taken for brightness of all
    modalities alike, on patients that it has not seen, too; this holds it to what can be undone.

    Args:
        read: R, of each modality, in the units of the sources, shape (B, N, *S).
        sources: Source modalities in [0, 1], shape (B, N, *S).
        present: True where a case has a modality, bool of shape (B, N); None for all. A case that lacks one does not count:
            reading takes it for one that has all.

    Returns:
        Scalar, 0 where all is read as it is; 0 of no gradient where every case lacks something.

    Source: method.md, "Our reading" (what one channel must carry).
    """
    complete = None if present is None else present.all(dim=1)
    return mean_of_present((read - sources).square().flatten(1).mean(dim=1), complete)
