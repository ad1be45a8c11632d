"""Fusion loss: what the fusion network is held to beside the segmentation, as a weighted sum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict

from torch import Tensor

from fuse4seg.colour import luma
from fuse4seg.losses.chroma import chroma_loss
from fuse4seg.losses.decomposition import decomposition_loss
from fuse4seg.losses.scd import scd_loss
from fuse4seg.losses.ssim import balance_loss, ssim_loss
from fuse4seg.losses.strongest_source import edge_loss, intensity_loss, texture_loss
from fuse4seg.losses.vif import vif_loss
from fuse4seg.recipes.recipe import Losses

#: Parts that look at the strongest source. An absent modality is 0 and never the strongest, so they need not know of it.
OF_THE_STRONGEST = {"intensity": intensity_loss, "texture": texture_loss, "edges": edge_loss}
#: Parts that are means over the modalities there are.
OF_EACH = {"ssim": ssim_loss, "balance": balance_loss, "vif": vif_loss, "scd": scd_loss}


def image_losses(fused: Tensor, sources: Tensor, parts: Iterable[str], *, present: Tensor | None = None) -> dict[str, Tensor]:
    """Those of ``parts`` that look at grey images alone, each unweighted.

    Args:
        fused: In [0, 1], shape (B, 1, *S).
        sources: As in :func:`fusion_loss`.
        parts: Names in :class:`~fuse4seg.recipes.recipe.Losses`.
        present: As in :func:`fusion_loss`.

    Example:
        >>> ct, mri = torch.rand(2, 1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> image_losses(torch.maximum(ct, mri), torch.cat([ct, mri], dim=1), ["intensity"])
        {'intensity': tensor(0.)}
    """
    wanted = set(parts)
    return {**{name: loss(fused, sources) for name, loss in OF_THE_STRONGEST.items() if name in wanted},
            **{name: loss(fused, sources, present=present) for name, loss in OF_EACH.items() if name in wanted}}


def fusion_loss(image: Tensor, sources: Tensor, *, weights: Losses, tissue: Tensor,
                streams: tuple[Tensor, Tensor] | None = None, given: Mapping[str, Tensor] | None = None,
                present: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Weighted sum of all parts; all but chroma, and what is given, look at the image's luma.

    .. math:: L^f = w_O L_{own} + w_I L_{int} + w_T L_{text} + w_D L_{corr} + w_A L_{adv}
        + w_E L_{edge} + w_S L_{ssim} + w_B L_{bal} + w_V L_{vif} + w_C L_{scd} + w_K L_{chroma}

    Args:
        image: Fused image in [0, 1], shape (B, C, *S), C 1 or 3, S of two or three axes.
        sources: Source modalities in [0, 1], shape (B, N, *S). Absent ones are 0.
        weights: Weight of each part.
        tissue: 1 where the image shall be grey and 0 elsewhere, shape (B, 1, *S).
        streams: Features of each modality in low and in high frequencies, shapes (B, N, C, *S') and (B, N, C', *S''), which
            the decomposition loss wants.
        given: Parts that the leader or its discriminators say: own, adversarial; what is not there is left out.
        present: True where a case has a modality, bool of shape (B, N); None for all.

    Returns:
        The weighted sum, a scalar, and the unweighted, detached value of each part that was computed, by its name in
        :class:`~fuse4seg.recipes.recipe.Losses`.

    Source: method.md, "Two stages", stage 2; SSIM and VIF: "Fusion losses without labels".

    Example:
        >>> random = torch.Generator().manual_seed(0)
        >>> sources = torch.rand(1, 2, 16, 16, generator=random)
        >>> total, parts = fusion_loss(sources.amax(dim=1, keepdim=True), sources,
        ...                            weights=Losses.only(edges=2, balance=6, scd=0.3), tissue=torch.ones(1, 1, 16, 16))
        >>> list(parts)
        ['edges', 'balance', 'scd']
        >>> torch.isclose(total, 2 * parts["edges"] + 6 * parts["balance"] + 0.3 * parts["scd"])
        tensor(True)
    """
    wanted = [name for name, weight in asdict(weights).items() if weight]
    parts = image_losses(luma(image), sources, wanted, present=present)
    if weights.decomposition and streams is not None:
        parts["decomposition"] = decomposition_loss(*streams, present=present)
    parts.update({name: part for name, part in (given or {}).items() if getattr(weights, name)})
    if weights.chroma and image.shape[1] > 1:
        parts["chroma"] = chroma_loss(image, tissue)
    total = sum((getattr(weights, name) * part for name, part in parts.items()), start=image.new_zeros(()))
    return total, {name: part.detach() for name, part in parts.items()}
