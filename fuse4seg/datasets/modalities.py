"""Channels by their names: which of the usual modalities each one means."""

from __future__ import annotations

import re
from collections.abc import Sequence

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


def places_of(channels: Sequence[str], known: Sequence[str]) -> list[int | None]:
    """Where each channel stands among others: under its own name, whatever its case, else under one of the same modality.

    Args:
        channels: Names, no two alike.
        known: Names to find them among, no two alike.

    Returns:
        For each channel its number in ``known``; None where none, or more than one, could be it.

    >>> places_of(["T1-Gd", "flair", "ADC"], ["T2", "FLAIR", "T1ce"])
    [2, 1, None]
    """
    by_name = {name.casefold(): place for place, name in enumerate(known)}
    places = [by_name.get(channel.casefold()) for channel in channels]
    modalities = [None if place in places else modality_of(name) for place, name in enumerate(known)]
    missing = [modality_of(channel) if place is None else None for channel, place in zip(channels, places, strict=True)]
    return [modalities.index(wanted) if wanted and modalities.count(wanted) == missing.count(wanted) == 1 else place
            for wanted, place in zip(missing, places, strict=True)]
