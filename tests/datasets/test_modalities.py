"""Names of channels, and what they mean."""

from __future__ import annotations

import pytest

from fuse4seg.datasets.modalities import MODALITIES, NAMES, modality_of, places_of


@pytest.mark.parametrize(("channel", "modality"), [
    ("T1", "T1"), ("t1n", "T1"), ("T1w", "T1"), ("T1ce", "T1ce"), ("t1c", "T1ce"), ("T1-Gd", "T1ce"), ("t1gd", "T1ce"),
    ("T2", "T2"), ("T2w", "T2"), ("FLAIR", "FLAIR"), ("T2 FLAIR", "FLAIR"), ("t2f", "FLAIR"), ("ct", "CT"), ("PET", "PET"),
    ("ADC", None), ("MRI", None), ("infrared", None), ("", None)])
def test_a_name_means_a_modality_whatever_its_case_and_punctuation(channel: str, modality: str | None) -> None:
    assert modality_of(channel) == modality


def test_no_name_means_two() -> None:
    names = [name for modality in MODALITIES for name in NAMES[modality]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("channels", "known", "places"), [
    (["FLAIR", "T1"], ["T1", "T2", "FLAIR"], [2, 0]), (["t1", "T1w"], ["T1w", "T1"], [1, 0]), (["T1w"], ["T1"], [0]),
    (["T1"], ["t1n", "t1w"], [None]), (["t1n", "t1w"], ["T1"], [None, None]), (["t1n", "T1"], ["T1"], [None, 0]),
    (["ADC", "adc 2"], ["adc"], [0, None]), ([], ["T1"], []), (["infrared"], [], [None])])
def test_a_channel_is_found_by_its_name_or_else_by_its_modality(channels: list[str], known: list[str],
                                                                places: list[int | None]) -> None:
    assert places_of(channels, known) == places
