"""Wall time of f4s_predict over nnUNetv2_predict on the same folder, and how many of the fast path's labels are a plain loop's.

Prints the ratios, mirroring on; with -device cuda those on a GPU; and the share of equal labels.

Both models lie in nnUNet_results, trained with the same plan: ours by f4s_train, stock nnU-Net's by
``python -m fuse4seg.cli.train_stock_nnunet`` (whose time does not depend on how well it is trained).

Example:
    python benchmarks/predict.py --root DATA 502 2d -i imagesTs -o predict.json
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))

from timing import add_timing_flags, compare, measure, save, show

from fuse4seg.cli.command import make_parser, run_command
from fuse4seg.plans import PLANS_NAME
from fuse4seg.side_by_side import own_command

if TYPE_CHECKING:
    import numpy as np

    from fuse4seg.inference.model import Model

#: Words of stock nnU-Net's command, as of ours by ``own_command``.
STOCK = (sys.executable, "-c",
         "from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder as main; main()")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = make_parser("Time prediction beside nnU-Net's.", example="python benchmarks/predict.py 502 2d -i imagesTs")
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("-i", dest="images", type=Path, required=True, help="folder of cases")
    parser.add_argument("-f", dest="fold", default="0", help="fold of both models (default: %(default)s)")
    parser.add_argument("-p", dest="plans", default=PLANS_NAME, help="default: %(default)s")
    parser.add_argument("-device", choices=("cuda", "cpu"), default="cpu")
    parser.add_argument("--precision", nargs="+", default=["auto", "float32"], help="default: auto float32")
    parser.add_argument("--warm_up", type=int, default=1, help="rounds before those that count (default: %(default)s)")
    add_timing_flags(parser, rounds=3)
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.comparison.stock_nnunet import STOCK_PLANS
    from fuse4seg.model_errors import CheckpointNotFoundError
    from fuse4seg.paths import RESULTS, data_root, dataset_name

    place = data_root(RESULTS) / dataset_name(options.dataset, variables=(RESULTS,))
    stock = place / f"nnUNetTrainer__{STOCK_PLANS}__{options.configuration}"
    ours = place / f"Fuse4SegTrainer__{options.plans}__{options.configuration}"
    for model in (stock, ours):
        checkpoint = model / f"fold_{options.fold}" / "checkpoint_final.pth"
        if not checkpoint.is_file():
            raise CheckpointNotFoundError(checkpoint, "Train it first (ours: f4s_train, stock nnU-Net: "
                                                      "python -m fuse4seg.cli.train_stock_nnunet).")
    shared = ["-i", str(options.images), "-f", options.fold, "-device", options.device]
    contenders: dict[str, Callable[[], object]] = {"nnU-Net": command_of([*STOCK, *shared, "-m", str(stock)])}
    for precision in options.precision:
        contenders[f"Fuse4Seg, {precision}"] = command_of(own_command(
            "predict", *shared, "-d", options.dataset, "-c", options.configuration, "-p", options.plans,
            "--precision", precision))
    # First, because it also warms the disk's cache up, and shows at once where the models cannot be used.
    agreement = [_agreement(ours, options, precision) for precision in options.precision]
    show(agreement)
    rows = compare(measure(contenders, rounds=options.rounds, warm_up=options.warm_up), peer="nnU-Net")
    show(rows)
    save({"rows": rows, "agreement": agreement}, options.output, device=options.device)


def command_of(words: Sequence[str]) -> Callable[[], object]:
    """Run a command in a process of its own, which writes into a fresh folder."""

    def act() -> None:
        with tempfile.TemporaryDirectory() as output, tempfile.TemporaryFile("w+") as said:
            run = subprocess.run([*words, "-o", output], stdout=said, stderr=said, check=False)
            if run.returncode:
                said.seek(0)
                sys.exit(f"{words[3:]}:\n{said.read()}")

    return act


def _agreement(folder: Path, options: argparse.Namespace, precision: str) -> dict[str, Any]:
    """Share of the voxels, of all cases, that the fast path and a plain loop give the same label."""
    import torch

    from fuse4seg.datasets.dataset_json import channel_names
    from fuse4seg.datasets.raw import list_cases
    from fuse4seg.inference.model import load_model
    from fuse4seg.inference.predict_case import predict_case
    from fuse4seg.inference.preprocess_case import preprocessed_images

    fold = int(options.fold) if options.fold.isdecimal() else options.fold
    model = load_model(folder, folds=[fold], device=torch.device(options.device), precision=precision)
    cases = list_cases(options.images, channels=channel_names(model.description.dataset_json),
                       file_ending=model.description.file_ending)
    equal = voxels = held = 0
    for case in cases.values():
        channels, properties = preprocessed_images(case, model.description)
        made = predict_case(model, torch.from_numpy(channels), properties)
        fast, plain = made.logits.argmax(axis=0), plain_logits(model, made.fused[0], properties["spacing"]).argmax(axis=0)
        equal, voxels = equal + int((fast == plain).sum()), voxels + fast.size
        held += int((plain > 0).sum())
    return {"precision": precision, "cases": len(cases), "equal": equal / voxels,
            "different, per foreground voxel": (voxels - equal) / max(held, 1)}


def plain_logits(model: Model, fused: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Logits (classes, Z, Y, X) in float32 of an exported image: single windows, and mirrored copies of each."""
    import torch
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window

    from fuse4seg.inference.input_space import read_levels
    from fuse4seg.inference.sliding_window import mirrored_copies, pad_to_tiles
    from fuse4seg.networks.fuse_then_segment import as_read

    (network,), patch = model.with_each_weights(), tuple(model.patch_size)
    copies = mirrored_copies(model.mirror_axes, first=2)
    follower = network.segmentation.to(memory_format=torch.contiguous_format)
    weight = compute_gaussian(patch, sigma_scale=1 / 8, value_scaling_factor=10, dtype=torch.float32, device=torch.device("cpu"))
    image = torch.from_numpy(read_levels(fused, spacing, description=model.description)[0])
    padded, inside = pad_to_tiles(image.transpose(0, 1) if len(patch) == 2 else image[None], tile=patch)
    total, weights = None, torch.zeros(padded.shape[2:])
    for corner in product(*compute_steps_for_sliding_window(padded.shape[2:], patch, model.step_size)):
        window = tuple(slice(start, start + extent) for start, extent in zip(corner, patch, strict=True))
        weights[window] += weight
        for index, part in enumerate(padded):
            read = as_read(part[None][(..., *window)].to(model.device), leader=network.fusion)
            with torch.inference_mode():
                logits = (sum(follower(read.flip(axes)).flip(axes) for axes in copies)[0] / len(copies)).float().cpu()
            if total is None:
                total = torch.zeros(len(padded), len(logits), *padded.shape[2:])
            total[(index, slice(None), *window)] += logits * weight
    found = (total / weights)[inside]
    return (found.transpose(0, 1) if len(patch) == 2 else found[0]).numpy()


if __name__ == "__main__":
    sys.exit(main())
