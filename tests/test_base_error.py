"""What all errors share: a short line, and a message that survives the way between processes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from fuse4seg.base_error import CaseError, FileError, Fuse4SegError, first_line


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
