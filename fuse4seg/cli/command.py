"""What all commands share: strict parsing, logging, and errors turned into one line and an exit status."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from fuse4seg.errors import Fuse4SegError, OptionError, UnwritableFolderError
from fuse4seg.launch import is_first_rank, leave_last_words, ranks_here
from fuse4seg.model_errors import LostRankError
from fuse4seg.own_outputs import OwnOutputs, claim_outputs
from fuse4seg.paths import prepare_environment, set_roots
from fuse4seg.signals import Terminated, handled

OK, FAILED, INTERRUPTED, TERMINATED = 0, 1, 130, 143
#: Above it are the statuses of what a signal stopped, as it was asked to.
STOPPED = 128
#: What a full disk, a quota or a limit of file sizes answers; nnU-Net writes some files for us.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _terminate(_number: int, _frame: object) -> None:
    """Clean up after SIGTERM like after Ctrl-C: no temporary file stays behind."""
    raise Terminated


def _place(error: OSError) -> Path:
    """The folder of what could not be written, where the system says."""
    return Path(error.filename).parent if isinstance(error.filename, str) else Path.cwd()


def make_parser(description: str, *, example: str) -> argparse.ArgumentParser:
    """Parser that refuses unknown and abbreviated flags, with --root and --verbose; its help ends with ``example``."""
    parser = argparse.ArgumentParser(description=description, epilog=f"example:\n  {example}", allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder of nnUNet_raw, nnUNet_preprocessed and nnUNet_results "
                                                  "(default: F4S_ROOT, else nnU-Net's own variables)")
    parser.add_argument("--verbose", action="store_true", help="log what nnU-Net says, too")
    return parser


def words_of(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[str]:
    """Words from which a parser reads these options; those that are as by default are left out.

    Example:
        >>> parser = make_parser("Train.", example="")
        >>> _ = parser.add_argument("fold", type=int), parser.add_argument("--c", action="store_true")
        >>> words_of(parser, parser.parse_args(["3", "--c", "--root", "data"]))
        ['3', '--root', 'data', '--c']
    """
    named, flags = [], []
    for action in parser._actions:
        value = getattr(options, action.dest, action.default)
        values = [] if action.nargs == 0 else [str(entry) for entry in (value if isinstance(value, list) else [value])]
        if not action.option_strings:
            named += values
        elif value != action.default:
            flags += [action.option_strings[-1], *values]
    return [*named, *flags]


def add_overwrite_flag(parser: argparse.ArgumentParser) -> None:
    """Add --overwrite, which all commands share that replace nothing but what this tool wrote."""
    parser.add_argument("--overwrite", action="store_true", help="also replace files that this tool did not write")


def claim_results(files: Mapping[str, Path | None], *, overwrite: bool) -> list[OwnOutputs]:
    """Make sure that results, each a JSON file with a CSV file beside it, replace neither one another nor other people's files.

    Args:
        files: By their flags; None for those that are not wanted.
        overwrite: Replace other people's files.

    Raises:
        OptionError: They do, or a name does not end with .json.
    """
    given = {flag: path for flag, path in files.items() if path is not None}
    for flag, path in given.items():
        if path.suffix != ".json":
            raise OptionError(flag, f"names the JSON file of the result, and {path} does not end with .json.")
    if len({path.resolve() for path in given.values()}) < len(given):
        raise OptionError(" and ".join(given), "name the same file. Give each its own.")
    return [claim_outputs(path.absolute().parent, [path.name, *([path.with_suffix(".csv").name] if flag == "-o" else [])],
                          overwrite=overwrite)
            for flag, path in given.items()]


def require_at_least(least: int, *values: int, flag: str) -> None:
    """Make sure that a number of the command line is large enough.

    Raises:
        OptionError: One is not.
    """
    for value in values:
        if value < least:
            raise OptionError(flag, f"must be at least {least}, got {value}.")


def run_command(action: Callable[[argparse.Namespace], int | None], parser: argparse.ArgumentParser,
                arguments: Sequence[str] | None = None) -> int:
    """Parse, run ``action``, and answer with an exit status.

    Args:
        action: Does the command's work; its return value is the exit status (None counts as 0).
        parser: From :func:`make_parser`.
        arguments: Words after the command's name; those of the process if left out.

    Returns:
        0 when done, 1 after a failure that was explained on stderr, 130 after Ctrl-C, 143 after SIGTERM. argparse itself exits
        with 2.
    """
    options = parser.parse_args(arguments)
    # Of several processes that train together, the first speaks for all.
    usual = logging.INFO if is_first_rank() else logging.ERROR
    logging.basicConfig(level=logging.DEBUG if options.verbose else usual, format="%(message)s", stream=sys.stderr, force=True)
    for noisy in ("matplotlib", "PIL", "numexpr", "blosc2", "torch", "fsspec", "urllib3", "highdicom", "pydicom"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        set_roots(options.root)
        prepare_environment(trainings=ranks_here(getattr(options, "num_gpus", 1)))
        with logging_redirect_tqdm(), handled(_terminate, (signal.SIGTERM,)):
            return action(options) or OK
    except Fuse4SegError as error:
        status = getattr(error, "status", FAILED)
        said = str(error) if status > STOPPED else f"error: {error}"
    except KeyboardInterrupt:
        said, status = "interrupted", INTERRUPTED
    except Terminated:
        said, status = "terminated", TERMINATED
    except BrokenPipeError:
        # The reader of our output went away (for example `| head`); that is no failure of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except ModuleNotFoundError as error:
        if not error.name or error.name.partition(".")[0] == "fuse4seg":
            raise
        said, status = f"error: the Python package {error.name.partition('.')[0]} is not installed. Install it.", FAILED
    except OSError as error:
        if error.errno not in (*FULL, errno.ENAMETOOLONG):
            raise
        said = f"{error.filename}: the name is too long. Give a shorter one."
        if error.errno in FULL:
            said = str(UnwritableFolderError(_place(error), error.strerror))
        said, status = f"error: {said}", FAILED
    # Not before: a progress bar lives as long as the error that ended it, and draws itself once more when it goes.
    if not leave_last_words(said) and (is_first_rank() or status != LostRankError.status):
        print(said, file=sys.stderr)
    return status
