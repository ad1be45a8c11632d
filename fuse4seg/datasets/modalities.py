"""Channels by their names: which of the usual modalities each one means."""

from __future__ import annotations

import re

#: Names of channels in small letters and digits, by the modality that they mean.
NAMES = {"T1": ("t1", "t1w", "t1n", "t1native"),
         "T1ce": ("t1ce", "t1c", "t1gd", "t1km", "t1post", "t1wce", "t1contrast"),
         "T2": ("t2", "t2w"), "FLAIR": ("flair", "t2flair", "t2f", "flairt2"), "CT": ("ct",), "PET": ("pet", "pt")}
MODALITIES = tuple(NAMES)


def modality_of(channel: str) -> str | None:
    """The modality that a channel's name means, whatever its case and punctuation; None of other names.

    >>> modality_of("T1-Gd"), modality_of("t2 flair"), modality_of("ADC")
    ('T1ce', 'FLAIR', None)
    """
    plain = re.sub(r"[^a-z0-9]", "", channel.casefold())
    return next((modality for modality, names in NAMES.items() if plain in names), None)
