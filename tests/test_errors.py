"""Every named error is in the reference, and the reference names no other."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from fuse4seg import errors

TABLE = Path(__file__).parents[1] / "documentation" / "reference" / "errors.md"


def named() -> set[str]:
    return {name for name, found in inspect.getmembers(errors, inspect.isclass)
            if issubclass(found, errors.Fuse4SegError) and found.__module__ == errors.__name__}


def test_the_reference_lists_every_error_once_with_its_meaning_if_its_name_does_not_say_it() -> None:
    text = TABLE.read_text()
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in text.splitlines() if re.match(r"\| `\w+Error` \|", line)]
    telling = re.findall(r"`(\w+Error)`", re.search(r"^Names that say it: (.*?)\.$", text, re.MULTILINE | re.DOTALL)[1])
    assert sorted([*telling, *(row[0].strip("`") for row in rows)]) == sorted(named())
    assert [row[0] for row in rows if len(row) < 2 or not all(row)] == []


def test_every_error_says_what_it_is() -> None:
    assert [name for name in named() if not (getattr(errors, name).__doc__ or "").strip()] == []
