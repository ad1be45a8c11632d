"""Every named error is in the reference, and no other; messages are short and survive the way between processes."""

from __future__ import annotations

import inspect
import pickle
import re
from pathlib import Path

import pytest

from fuse4seg import errors, model_errors
from fuse4seg.errors import CaseError, FileError, Fuse4SegError, first_line

TABLE = Path(__file__).parents[1] / "documentation" / "reference" / "errors.md"


#: What errors are made from, and which nobody raises.
BASES = (Fuse4SegError, FileError, CaseError)


def named() -> dict[str, type[Fuse4SegError]]:
    return {name: found for module in (errors, model_errors) for name, found in inspect.getmembers(module, inspect.isclass)
            if issubclass(found, Fuse4SegError) and found not in BASES}


def test_the_reference_lists_every_error_once_with_its_meaning_if_its_name_does_not_say_it() -> None:
    text = TABLE.read_text()
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in text.splitlines() if re.match(r"\| `\w+Error` \|", line)]
    telling = re.findall(r"`(\w+Error)`", re.search(r"^Names that say it: (.*?)\.$", text, re.MULTILINE | re.DOTALL)[1])
    assert sorted([*telling, *(row[0].strip("`") for row in rows)]) == sorted(named())
    assert [row[0] for row in rows if len(row) < 2 or not all(row)] == []


def test_every_error_says_what_it_is() -> None:
    assert [name for name, error in named().items() if not (error.__doc__ or "").strip()] == []


@pytest.mark.parametrize(("error", "plain", "with_kind"), [
    (ValueError("no\nsecond line"), "no", "ValueError: no"), (KeyError(), "KeyError: ", "KeyError: "),
    (OSError("x" * 200), "x" * 160, "OSError: " + "x" * 151)])
def test_first_line_is_one_short_line(error: Exception, plain: str, with_kind: str) -> None:
    assert first_line(error) == plain
    assert first_line(error, kind=True) == with_kind


@pytest.mark.parametrize("error", [FileError(Path("a"), "is empty"), CaseError("a", "is empty")])
def test_an_error_comes_through_a_pipe_with_its_kind_and_message(error: Fuse4SegError) -> None:
    received = pickle.loads(pickle.dumps(error))
    assert (type(received), str(received)) == (type(error), str(error))
