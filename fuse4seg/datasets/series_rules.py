"""Which series of a study is which channel, by rules in a small TOML file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomllib

from fuse4seg.datasets.modalities import modality_of
from fuse4seg.errors import AmbiguousImagesError, SeriesRulesError

if TYPE_CHECKING:
    from fuse4seg.datasets.dicom_series import Series, Study

#: The rules that are built in; those of a user go before, modality by modality.
BUILT_IN = Path(__file__).with_name("series_rules.toml")
#: Types of a rule's entries, by their names in annotations.
TYPES = {"str": str, "bool | None": bool, "int | None": int}
PATTERNS = ("description", "exclude", "sequence")


@dataclass(frozen=True)
class Rule:
    """What a series must be to be a channel; entries as series_rules.toml has them, those left out ask for nothing."""

    modality: str = ""
    description: str = ""
    exclude: str = ""
    sequence: str = ""
    contrast: bool | None = None
    number: int | None = None
    series: str = ""

    def fits(self, series: Series) -> bool:
        """Whether a series fulfils every entry."""
        return (self.modality in ("", series.modality) and self.series in ("", series.uid)
                and self.number in (None, series.number) and self.contrast in (None, series.contrast)
                and _found(self.description, series.description) and _found(self.sequence, series.sequence)
                and not (self.exclude and _found(self.exclude, series.description)))


Rules = Mapping[str, Sequence[Rule]]


def read_rules(path: Path | None = None) -> Rules:
    """The built-in rules, or with a file those of its modalities in the place of theirs.

    Args:
        path: TOML, tables ``[[CHANNEL]]`` as in series_rules.toml.

    Returns:
        Rules in their order, by modality or name of a channel.

    Raises:
        SeriesRulesError: The file is missing or damaged, or holds what is no rule.

    >>> sorted(read_rules())
    ['CT', 'FLAIR', 'PET', 'T1', 'T1ce', 'T2']
    """
    built_in = _read(BUILT_IN)
    return built_in if path is None else {**built_in, **_read(path)}


def rules_of(channel: str, rules: Rules) -> Sequence[Rule]:
    """Rules of a channel: of its own name, else of the modality that the name means; none of other names."""
    own = next((name for name in rules if name.casefold() == channel.casefold()), None)
    return rules.get(own or modality_of(channel) or "", ())


def choose_series(study: Study, channels: Sequence[str], rules: Rules) -> dict[str, Series]:
    """For each channel the series that the rules give; nothing for channels that the study lacks.

    Raises:
        AmbiguousImagesError: Several series are one channel by the rule that decides, or one series is two channels.
    """
    chosen: dict[str, Series] = {}
    for channel in channels:
        fitting = next(filter(None, ([series for series in study.series if rule.fits(series)]
                                     for rule in rules_of(channel, rules))), [])
        if len(fitting) > 1:
            raise AmbiguousImagesError(study.name, channel, map(str, fitting), mend=_how_to_choose(channel, fitting))
        if fitting:
            other = next((name for name, series in chosen.items() if series is fitting[0]), None)
            if other is not None:
                raise AmbiguousImagesError(study.name, f"{other} and {channel}", [str(fitting[0])],
                                           mend="Tell them apart in a file for --series_rules.")
            chosen[channel] = fitting[0]
    return chosen


def _how_to_choose(channel: str, fitting: Sequence[Series]) -> str:
    """The table that would take the first of several series."""
    first, *others = fitting
    told = first.description
    if "'" not in told and all(told.casefold() != series.description.casefold() for series in others):
        # Not re.escape, which makes words hard to read.
        plain = re.sub(r"[.^$*+?{}\[\]\\|()]", r"\\\g<0>", told)
        entry = f"description = '^{plain}$'"
    else:
        entry = f'series = "{first.uid}"'
    return f"Write which into a file for --series_rules, for example {toml_key(channel)} = [{{{entry}}}]"


def toml_key(name: str) -> str:
    """A channel's name as TOML takes it between brackets."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'


def _found(pattern: str, text: str) -> bool:
    return re.search(pattern, text, re.IGNORECASE) is not None


def _read(path: Path) -> dict[str, tuple[Rule, ...]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SeriesRulesError(path, "is missing. Check the path.") from error
    except (OSError, ValueError) as error:
        raise SeriesRulesError(path, f"cannot be read as TOML ({error}). Mend it.") from error
    rules = {}
    for channel, tables in content.items():
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            problem = f"{channel} is no list of tables. Write [[{toml_key(channel)}]] above its entries."
            raise SeriesRulesError(path, problem)
        rules[channel] = tuple(_rule(table, channel, path) for table in tables)
    return rules


def _rule(table: dict[str, Any], channel: str, path: Path) -> Rule:
    kinds = {entry.name: TYPES[str(entry.type)] for entry in fields(Rule)}
    for name, value in table.items():
        if name not in kinds or type(value) is not kinds[name]:
            raise SeriesRulesError(path, f"{channel} has {name} = {value!r}. Entries are {', '.join(kinds)}; contrast "
                                         "is true or false, number a whole number, all others are texts.")
        if name in PATTERNS:
            try:
                re.compile(value)
            except re.error as error:
                problem = f"{channel}: {name} is no regular expression ({error}). Mend it."
                raise SeriesRulesError(path, problem) from error
    if not table:
        raise SeriesRulesError(path, f"{channel} has a table without entries, which every series fulfils. Fill it.")
    return Rule(**table)
