"""What all failures have in common."""

from __future__ import annotations

from pathlib import Path


class Fuse4SegError(Exception):
    """Base of all failures that a command answers with its message alone and exit status 1."""

    def __reduce__(self) -> tuple[object, ...]:
        """Background processes send errors by their message, which is not what they are made from."""
        return _with_message, (type(self), str(self))


def _with_message(kind: type[Fuse4SegError], message: str) -> Fuse4SegError:
    error = kind.__new__(kind)
    error.args = (message,)
    return error


def first_line(error: Exception, *, kind: bool = False) -> str:
    """What an exception says, in one line of at most 160 characters; with ``kind`` after the name of its class."""
    said = f"{type(error).__name__}: {error}" if kind or not str(error) else str(error)
    return said.splitlines()[0][:160]


class FileError(Fuse4SegError):
    """Something is wrong with a file."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")


class CaseError(Fuse4SegError):
    """Something is wrong with a case."""

    def __init__(self, case: str, problem: str) -> None:
        super().__init__(f"case {case}: {problem}")
