"""The reference page on commands, made from their own parsers: ``python -m fuse4seg.cli.reference``."""

from __future__ import annotations

import argparse
import importlib
import textwrap
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from unittest import mock

#: Every command in the order of work, and what its help does not say.
COMMANDS: Mapping[str, str] = MappingProxyType({
    "f4s_convert_dataset": "[How to convert](../how-to/convert-datasets.md).",
    "f4s_plan_and_preprocess": "The next three commands in one.",
    "f4s_extract_fingerprint": "",
    "f4s_plan_experiment": "",
    "f4s_preprocess": "",
    "f4s_train": "[How to resume and reproduce](../how-to/resume-and-reproduce.md).",
    "f4s_pretrain": "",
    "f4s_predict": "[How to predict](../how-to/predict.md).",
    "f4s_evaluate": "[How to evaluate](../how-to/evaluate.md).",
    "f4s_fuse": "[How to fuse and score](../how-to/fuse-and-score.md).",
    "f4s_evaluate_fusion": "[Conventions](fusion-metrics.md).",
    "f4s_compare": "[How to compare](../how-to/compare.md).",
    "f4s_build_brats_fuse": "[How to build BraTS-Fuse](../how-to/brats-fuse.md).",
    "f4s_export_model": "[How to share models](../how-to/share-models.md).",
    "f4s_install_model": "",
    "f4s_submit": "[How to use several devices and machines](../how-to/many-machines.md).",
    "f4s_demo": "[First steps](../tutorial/first-steps.md).",
})
#: Commands that share flags with an earlier one, where these are explained.
LIKE: Mapping[str, str] = MappingProxyType({
    **dict.fromkeys(("f4s_extract_fingerprint", "f4s_plan_experiment", "f4s_preprocess"), "f4s_plan_and_preprocess"),
    **dict.fromkeys(("f4s_pretrain", "f4s_compare"), "f4s_train"),
    **dict.fromkeys(("f4s_fuse", "f4s_export_model", "f4s_demo"), "f4s_predict"),
    "f4s_evaluate_fusion": "f4s_fuse",
    "f4s_build_brats_fuse": "f4s_fuse",
})
HEAD = """\
# Commands

Flags are spelt as in nnU-Net where it has them. Unknown and abbreviated flags are refused. Tables go to stdout,
everything else to stderr; [exit statuses](errors.md). DATASET is an id (501) or a name (Dataset501_BraTS). `--set` and
`--recipe` are explained with [recipes](recipes.md).

Every command has `--help`, and takes

```text
{shared}
```
"""
SHARED = ("-h", "--help", "--root", "--verbose")
WIDTH, COLUMN = 116, 34


class _BuiltError(Exception):
    """Carries a parser out of the command that built it."""


def commands_page() -> str:
    """The page, as it stands in documentation/reference/commands.md."""
    shared = [line for action in parser_of("f4s_demo")._actions if {*action.option_strings} & {*SHARED[2:]}
              for line in _entry(action)]
    sections = ("\n" + "\n".join(_section(name, more)) + "\n" for name, more in COMMANDS.items())
    return HEAD.format(shared="\n".join(shared)) + "".join(sections)


def own_actions(command: str) -> list[argparse.Action]:
    """Arguments of a command, but for those that every command has."""
    return [action for action in parser_of(command)._actions if not {*action.option_strings} & {*SHARED}]


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser that a command builds before it does anything else."""
    module = importlib.import_module(f"fuse4seg.cli.{command.removeprefix('f4s_')}")
    with mock.patch.object(argparse.ArgumentParser, "parse_args", autospec=True, side_effect=_hand_out):
        try:
            module.main([])
        except _BuiltError as built:
            return built.args[0]
    raise AssertionError(f"{command} parses nothing")


def _hand_out(parser: argparse.ArgumentParser, *_: object) -> None:
    raise _BuiltError(parser)


def _section(name: str, more: str) -> Iterator[str]:
    parser = parser_of(name)
    about = f"{parser.description} {more}".strip().replace("<", r"\<")
    yield from (f"## {name}", "", *_wrapped(about), "", "```text")
    yield from (parser.epilog.partition("\n")[2].strip(), "")
    entries = {_flag(action): list(_entry(action)) for action in own_actions(name)}
    explained = [list(_entry(action)) for action in own_actions(LIKE[name])] if name in LIKE else []
    for lines in entries.values():
        if lines not in explained:
            yield from lines
    if known := [flag.split()[0].rstrip(",") for flag, lines in entries.items() if lines in explained]:
        yield from _wrapped(f"and as {LIKE[name]}: {', '.join(known)}")
    yield "```"


def _entry(action: argparse.Action) -> Iterator[str]:
    flag, about = _flag(action), (action.help or "") % vars(action)
    if action.option_strings and action.required:
        about += "; required"
    lines = _wrapped(about, WIDTH - COLUMN)
    if len(flag) >= COLUMN - 1:
        yield flag
        flag = ""
    for line in lines or [""]:
        yield f"{flag:{COLUMN}}{line}".rstrip()
        flag = ""


def _wrapped(text: str, width: int = WIDTH) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _flag(action: argparse.Action) -> str:
    """Names and values, as ``-f FOLD ...``, the same under every version of Python."""
    value = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else
                               action.dest.upper() if action.option_strings else action.dest)
    if isinstance(value, tuple):
        return " ".join([", ".join(action.option_strings), *value])
    values = {None: value, 0: "", argparse.REMAINDER: f"{value} ...", "+": f"{value} ...",
              "*": f"[{value} ...]", "?": f"[{value}]"}
    shown = values[action.nargs] if action.nargs in values else " ".join([value] * action.nargs)
    return f"{', '.join(action.option_strings)} {shown}".strip()


if __name__ == "__main__":
    print(commands_page(), end="")
