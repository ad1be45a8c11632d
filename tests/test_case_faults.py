"""What is a case's fault, and what would be every case's."""

from __future__ import annotations

import errno
import logging
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch

from fuse4seg.case_faults import fault_in_scoring, fault_of
from fuse4seg.errors import CaseTooLargeError, FaultyImageError, UnreadableImageError, UnwritableFolderError


@pytest.mark.parametrize("error", [IndexError("list index out of range"), ZeroDivisionError("x\ny"), AssertionError(),
                                   KeyError("a"), OSError(errno.EIO, "read error")])
def test_any_error_is_a_line_and_its_traceback_is_kept(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "fuse4seg"):
        fault = fault_of(error, "a")
    assert isinstance(fault, FaultyImageError)
    assert str(fault).startswith(f"case a: it cannot be used ({type(error).__name__}")
    assert "\n" not in str(fault)
    assert caplog.records[0].exc_info[1] is error


def test_our_own_stand_for_themselves_and_memory_has_its_own() -> None:
    own = UnreadableImageError(Path("a.png"), "empty")
    assert fault_of(own, "a") is own
    assert isinstance(fault_of(MemoryError(), "a"), CaseTooLargeError)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space"), OSError(errno.EMFILE, "too many"), BrokenProcessPool(),
                                   UnwritableFolderError(Path("out"), "full"), torch.OutOfMemoryError()])
def test_what_every_case_would_meet_ends_the_run(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        fault_of(error, "a")
    assert raised.value is error


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space"), UnwritableFolderError(Path("out"), "full")])
def test_a_full_disk_ends_no_scoring(error: Exception) -> None:
    assert str(fault_in_scoring(error, "a")).startswith("case a: it was not scored (")


def test_scoring_ends_with_a_process_that_died() -> None:
    with pytest.raises(BrokenProcessPool):
        fault_in_scoring(BrokenProcessPool(), "a")
