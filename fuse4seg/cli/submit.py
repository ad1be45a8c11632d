"""f4s_submit: another command as a job array of SLURM, a fold or a part of the cases per element."""

from __future__ import annotations

import argparse
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from fuse4seg.cli.command import make_parser, run_command, words_of
from fuse4seg.cli.reference import COMMANDS, parser_of
from fuse4seg.errors import OptionError
from fuse4seg.side_by_side import own_command
from fuse4seg.slurm import script_of, submit, write_script

log = logging.getLogger(__name__)

#: What makes a command go on where it was stopped; the others do so by themselves, or begin anew.
AGAIN: Mapping[str, str] = MappingProxyType({"f4s_train": "--c", "f4s_predict": "--continue_prediction"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Write a SLURM job array and submit it: f4s_train gets an element per fold, f4s_predict with "
                         "-num_parts one per part. What is stopped, as at the time limit, is queued again and goes on.",
                         example="f4s_submit -o jobs --sbatch gres=gpu:1 time=24:00:00 -- f4s_train 501 2d 0 1 2 3 4")
    parser.add_argument("-o", dest="folder", type=Path, required=True, help="for the script and the logs")
    parser.add_argument("--sbatch", nargs="+", default=[], metavar="OPTION=VALUE",
                        help="its options by their long names: partition=gpu gres=gpu:1 time=24:00:00 exclusive")
    parser.add_argument("--only_write", action="store_true", help="write the script, submit nothing")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="--, the command and its words")
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    words = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not words or words[0] not in COMMANDS or words[0] == "f4s_submit":
        raise OptionError("command", "is to be one of this tool, behind two dashes: -- f4s_train 501 2d 0 1 2 3 4.")
    name, parser = words[0], parser_of(words[0])
    given = parser.parse_args(words[1:])
    first = []
    if getattr(given, "pretrained_weights", None) is not None:
        # What goes on holds them.
        first, given.pretrained_weights = ["-pretrained_weights", str(given.pretrained_weights)], None
    elements = [own_command(name[4:], *words_of(parser, one)) for one in _elements(name, given, words)]
    anew = getattr(given, "val", False) or getattr(given, "from_fused", False)
    again = [AGAIN[name]] if name in AGAIN and not anew else []
    script = options.folder / f"{name}.sh"
    text = script_of(elements, name=name, folder=options.folder, again=again, first=first,
                     options=_sbatch_options(options.sbatch))
    write_script(text, script)
    answer = None if options.only_write else submit(script)
    log.info("%s: %d job(s)", script, len(elements))
    log.info("%s", answer or f"not submitted yet: {shlex.join(['sbatch', str(script)])}")


def _elements(name: str, given: argparse.Namespace, words: Sequence[str]) -> list[argparse.Namespace]:
    """The options of each element; a part of the cases that is named stays alone."""
    parts = getattr(given, "num_parts", 1)
    if parts > 1 and not any(word.partition("=")[0] == "-part_id" for word in words):
        for flag in ("report", "from_fused"):
            if getattr(given, flag):
                raise OptionError("-num_parts", f"cannot be had with --{flag}, which is of all cases together. Leave one out.")
        return [argparse.Namespace(**{**vars(given), "part_id": part}) for part in range(parts)]
    if name == "f4s_train":
        return [argparse.Namespace(**{**vars(given), "fold": [fold]}) for fold in given.fold]
    return [given]


def _sbatch_options(words: Sequence[str]) -> dict[str, str]:
    """Options of sbatch by their names.

    Raises:
        OptionError: One would break the script.
    """
    found = {}
    for word in words:
        name, _, value = word.lstrip("-").partition("=")
        if not name.replace("-", "").isalnum() or not value.isprintable() or name in ("array", "output"):
            raise OptionError("--sbatch", f"{word!r} is no option that can be chosen. Give long names, as time=24:00:00.")
        found[name] = value
    return found
