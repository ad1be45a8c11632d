"""f4s_compare: our method beside stock nnU-Net, single modalities, fixed fusions and its own ablations."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from fuse4seg.cli.command import make_parser, require_at_least, run_command
from fuse4seg.comparison.rows import GROUPS, USUAL, USUAL_ALONE
from fuse4seg.errors import FolderNotFoundError, OptionError
from fuse4seg.plans import PLANS_NAME

#: In the folder of a comparison: its tables, and what they say.
REPORT = "report.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser("Train and score several ways to segment a dataset under equal splits, plan, width and budget. A "
                         "second run does only what is missing.",
                         example="f4s_compare 502 2d -o comparison --rows stacked fixed fuse4seg --seed 0 1 2")
    parser.add_argument("dataset", help="dataset id or name")
    parser.add_argument("configuration", help="2d, 3d_fullres, 3d_lowres, ...")
    parser.add_argument("-o", dest="output", type=Path, required=True,
                        help="folder; report.html shows plots and tables, report.md the tables")
    parser.add_argument("-p", dest="plans", default=PLANS_NAME, help="plans (default: %(default)s)")
    parser.add_argument("--rows", nargs="*", metavar="ROW",
                        help="stacked, a modality's name, max, mean, wavelet, colour; fuse4seg, one with another teacher or "
                             "in grey, an ablation, each also as NAME_image; another method's recipe, also as "
                             f"NAME+fuse4seg; or a group: {', '.join(GROUPS)} (default: {' '.join(USUAL)}; without labels "
                             f"{' '.join(USUAL_ALONE)})")
    parser.add_argument("--images", nargs="+", default=[], metavar="NAME=FOLDER",
                        help="further rows: nnU-Net on images that another method fused; with NAME_pretrained or table3 among "
                             "the rows also behind the paper's pre-trained encoder")
    parser.add_argument("--variant", action="append", default=[], metavar="NAME=CHANGES",
                        help='further row: fuse4seg with a changed recipe, as "lambda0.5=bilevel.fusion_weight=0.5"; may be '
                             "repeated")
    parser.add_argument("-f", dest="folds", nargs="+", type=int, default=[0], help="default: 0")
    parser.add_argument("--seed", dest="seeds", nargs="+", type=int, default=[0], help="default: 0")
    parser.add_argument("--minutes", type=float,
                        help="of each training, in place of the plans' iterations; every row is timed first")
    parser.add_argument("--devices", nargs="+", metavar="DEVICE",
                        help="cpu, cuda, cuda:1, ...: one training at a time on each; name one twice for two at a time "
                             "(default: a GPU where there is one)")
    return run_command(_run, parser, arguments)


def pairs(words: Sequence[str], flag: str) -> dict[str, str]:
    """NAME=VALUE words.

    Raises:
        OptionError: One has no name or no value.
    """
    found: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        if not name or not value:
            raise OptionError(flag, f"{word!r} is not NAME=VALUE. Give the row's name, an equals sign, and what it is.")
        if name in found:
            raise OptionError(flag, f"{name} is there twice. Give each row a name of its own.")
        found[name] = value
    return found


def _run(options: argparse.Namespace) -> None:
    images, variants = pairs(options.images, "--images"), pairs(options.variant, "--variant")
    from fuse4seg.comparison.compare import Comparison, compare
    from fuse4seg.comparison.page import write_page
    from fuse4seg.comparison.report import format_markdown, format_text, fusion_table, reading, segmentation_table
    from fuse4seg.comparison.rows import choose_rows
    from fuse4seg.datasets.dataset_json import channel_names, foreground_classes, read_dataset_json
    from fuse4seg.errors import FaultyTrainingsError
    from fuse4seg.files import written_whole
    from fuse4seg.machine import choose_device
    from fuse4seg.paths import PREPROCESSED, data_root, dataset_name

    name = dataset_name(options.dataset, variables=(PREPROCESSED,))
    dataset_json = read_dataset_json(data_root(PREPROCESSED) / name)
    labelled = bool(foreground_classes(dataset_json))
    rows = choose_rows((USUAL if labelled else USUAL_ALONE) if options.rows is None else options.rows,
                       modalities=channel_names(dataset_json), images={row: Path(folder) for row, folder in images.items()},
                       variants=variants, labelled=labelled)
    for folder in map(Path, images.values()):
        if not folder.is_dir():
            raise FolderNotFoundError(folder)
    devices = options.devices or [choose_device(None).type]
    for device in devices:
        choose_device(device.partition(":")[0])
    if options.minutes is not None and not options.minutes > 0:
        raise OptionError("--minutes", f"must be above 0, got {options.minutes:g}.")
    require_at_least(0, *options.seeds, flag="--seed")
    command = shlex.join(["f4s_compare", *sys.argv[1:]])
    result, faults = compare(Comparison(name, options.configuration, options.plans, options.output, rows, options.folds,
                                        options.seeds, options.minutes, devices, command))
    print(format_text([segmentation_table(result["results"]), fusion_table(result["results"], result["trivial"])]))
    print("\n" + "\n".join(reading(result)))
    with written_whole(options.output / REPORT) as temporary:
        temporary.write_text(format_markdown(result))
    logging.getLogger(__name__).info("report: %s", write_page(result, options.output))
    if faults:
        raise FaultyTrainingsError(faults)
