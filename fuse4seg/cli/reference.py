"""The reference page on commands, made from their own parsers: ``python -m fuse4seg.cli.reference``."""

from __future__ import annotations

import argparse
import importlib
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from unittest import mock

from fuse4seg.recipes.reading import recipe_names

Lines = tuple[str, ...]

#: Every command in the order of work, and what its help does not say.
COMMANDS: Mapping[str, str] = MappingProxyType({
    "f4s_convert_dataset": "[How to convert](../how-to/convert-datasets.md).",
    "f4s_plan_and_preprocess": "The next three commands in one.",
    "f4s_extract_fingerprint": "",
    "f4s_plan_experiment": "",
    "f4s_preprocess": "",
    "f4s_train": "[How to resume and reproduce](../how-to/resume-and-reproduce.md).",
    "f4s_pretrain": "",
    "f4s_find_best_configuration": "[How to choose](../how-to/best-configuration.md).",
    "f4s_predict": "[How to predict](../how-to/predict.md).",
    "f4s_register": "[How to check alignment](../how-to/alignment.md).",
    "f4s_ensemble": "",
    "f4s_evaluate": "[How to evaluate](../how-to/evaluate.md).",
    "f4s_report": "[How to look at results](../how-to/report.md).",
    "f4s_fuse": "[How to fuse and score](../how-to/fuse-and-score.md).",
    "f4s_evaluate_fusion": "[Conventions](fusion-metrics.md).",
    "f4s_compare": "[How to compare](../how-to/compare.md).",
    "f4s_build_brats_fuse": "[How to build BraTS-Fuse](../how-to/brats-fuse.md).",
    "f4s_export_model": "[How to share models](../how-to/share-models.md).",
    "f4s_install_model": "",
    "f4s_info": "For reports of problems.",
    "f4s_submit": "[How to use several devices and machines](../how-to/many-machines.md).",
    "f4s_demo": "[First steps](../tutorial/first-steps.md).",
})
#: Commands that share flags with an earlier one, where these are explained.
LIKE: Mapping[str, str] = MappingProxyType({
    **dict.fromkeys(("f4s_extract_fingerprint", "f4s_plan_experiment", "f4s_preprocess"), "f4s_plan_and_preprocess"),
    **dict.fromkeys(("f4s_pretrain", "f4s_compare"), "f4s_train"),
    **dict.fromkeys(("f4s_evaluate_fusion", "f4s_build_brats_fuse"), "f4s_fuse"),
})
HEAD = """\
# Commands

Flags are spelt as in nnU-Net where it has them. Unknown and abbreviated flags are refused. Tables go to stdout,
everything else to stderr; [exit statuses](errors.md). DATASET is an id (501) or a name (Dataset501_BraTS); for
`--recipe` and `--set` see [recipes](recipes.md). Every command takes `--help` and

```text
{everywhere}
```

Shared flags, of the commands that name them:

```text
{shared}
```
"""
EVERYWHERE = ("-h", "--help", "--root", "--verbose")
#: Has its page.
RECIPES = ", ".join(recipe_names())
WIDTH, COLUMN = 116, 34


class _BuiltError(Exception):
    """Carries a parser out of the command that built it."""


def commands_page() -> str:
    """The page, as it stands in documentation/reference/commands.md."""
    own = {name: {_flag(action): tuple(_entry(action)) for action in own_actions(name)} for name in COMMANDS}
    new = {name: [item for item in entries.items() if item not in own.get(LIKE.get(name, ""), {}).items()]
           for name, entries in own.items()}
    times = Counter(item for items in new.values() for item in items)
    shared = dict(item for item, count in times.items() if count > 1)
    everywhere = [line for action in parser_of("f4s_demo")._actions if {*action.option_strings} & {*EVERYWHERE[2:]}
                  for line in _entry(action)]
    head = HEAD.format(everywhere="\n".join(everywhere), shared="\n".join(chain(*shared.values())))
    return head + "".join("\n" + "\n".join(_section(name, own[name], new[name], shared)) + "\n" for name in COMMANDS)


def own_actions(command: str) -> list[argparse.Action]:
    """Arguments of a command, but for those that every command has."""
    return [action for action in parser_of(command)._actions if not {*action.option_strings} & {*EVERYWHERE}]


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


def _section(name: str, own: Mapping[str, Lines], new: Sequence[tuple[str, Lines]],
             shared: Mapping[str, Lines]) -> Iterator[str]:
    """A command: what only it has in full, then names of what an earlier one has, too, and of what many share."""
    parser = parser_of(name)
    about = f"{parser.description} {COMMANDS[name]}".strip().replace("<", r"\<")
    yield from (f"## {name}", "", *_wrapped(about), "", "```text")
    yield from (parser.epilog.partition("\n")[2].strip(), "")
    for item in new:
        if item not in shared.items():
            yield from item[1]
    known = {f"as {LIKE.get(name)}": [flag for flag, lines in own.items() if (flag, lines) not in new],
             "shared": [flag for flag, lines in new if (flag, lines) in shared.items()]}
    for where, flags in known.items():
        if flags:
            yield from _wrapped(f"{where}: {', '.join(flag.split()[0].rstrip(',') for flag in flags)}")
    yield "```"


def _entry(action: argparse.Action) -> Iterator[str]:
    flag, about = _flag(action), ((action.help or "") % vars(action)).replace(RECIPES, "one that comes along")
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
    several = f"{value} ..."
    values = {None: value, 0: "", argparse.REMAINDER: several, "+": several, "*": f"[{several}]", "?": f"[{value}]"}
    shown = values[action.nargs] if action.nargs in values else " ".join([value] * action.nargs)
    return f"{', '.join(action.option_strings)} {shown}".strip()


if __name__ == "__main__":
    print(commands_page(), end="")
