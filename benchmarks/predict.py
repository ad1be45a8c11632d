"""Wall time of f4s_predict over nnUNetv2_predict on the same folder, and how far the fast path's labels are a plain loop's.

Both models lie in nnUNet_results, trained with the same plan: ours by f4s_train, stock nnU-Net's by
``python -m fuse4seg.comparison.stock_nnunet`` (whose time does not depend on how well it is trained).

Example:
    python benchmarks/predict.py --root DATA 502 2d -i imagesTs -o predict.json
"""

from __future__ import annotations

import argparse
import os
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

if TYPE_CHECKING:
    import torch

    from fuse4seg.inference.predictor import Fuse4SegPredictor

OURS = "import sys; from fuse4seg.cli.predict import main; sys.exit(main())"
STOCK = "from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder as main; main()"


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
    add_timing_flags(parser, rounds=3)
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.comparison.stock_nnunet import STOCK_PLANS
    from fuse4seg.paths import RESULTS, data_root, dataset_name

    place = data_root(RESULTS) / dataset_name(options.dataset, variables=(RESULTS,))
    stock = place / f"nnUNetTrainer__{STOCK_PLANS}__{options.configuration}"
    ours = place / f"Fuse4SegTrainer__{options.plans}__{options.configuration}"
    shared = ["-i", str(options.images), "-f", options.fold, "-device", options.device]
    contenders: dict[str, Callable[[], object]] = {"nnU-Net": _command(STOCK, [*shared, "-m", str(stock)])}
    for precision in options.precision:
        contenders[f"Fuse4Seg, {precision}"] = _command(OURS, [
            *shared, "-d", options.dataset, "-c", options.configuration, "-p", options.plans, "--precision", precision])
    rows = compare(measure(contenders, rounds=options.rounds), peer="nnU-Net")
    show(rows)
    agreement = [_agreement(ours, options, precision) for precision in options.precision]
    show(agreement)
    save({"rows": rows, "agreement": agreement}, options.output, device=options.device)


def _command(code: str, arguments: Sequence[str]) -> Callable[[], object]:
    """Run a command in a process of its own, which writes into a fresh folder."""

    def act() -> None:
        with tempfile.TemporaryDirectory() as output:
            subprocess.run([sys.executable, "-c", code, *arguments, "-o", output], check=True, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, env=dict(os.environ))

    return act


def _agreement(model: Path, options: argparse.Namespace, precision: str) -> dict[str, Any]:
    """Share of the voxels, of all cases, that the fast path and a plain loop give the same label."""
    import torch

    from fuse4seg.datasets.raw import channel_names, list_cases
    from fuse4seg.inference.predictor import load_predictor
    from fuse4seg.inference.preprocess_case import preprocess_case

    fold = int(options.fold) if options.fold.isdecimal() else options.fold
    predictor = load_predictor(model, folds=[fold], device=torch.device(options.device), precision=precision)
    cases = list_cases(options.images, channels=channel_names(predictor.dataset_json),
                       file_ending=predictor.dataset_json["file_ending"])
    equal = voxels = held = 0
    for case in cases.values():
        channels, _ = preprocess_case(predictor, case)
        fast = predictor.predict_logits_from_preprocessed_data(channels).argmax(dim=0)
        plain = plain_logits(predictor, channels).argmax(dim=0)
        equal, voxels = equal + int((fast == plain).sum()), voxels + fast.numel()
        held += int((plain > 0).sum())
    return {"precision": precision, "cases": len(cases), "equal": equal / voxels,
            "different, per foreground voxel": (voxels - equal) / max(held, 1)}


def plain_logits(predictor: Fuse4SegPredictor, channels: torch.Tensor) -> torch.Tensor:
    """Logits in float32: every mirrored copy fused, and segmented one window after the other."""
    import torch
    from acvl_utils.cropping_and_padding.padding import pad_nd_image
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window

    from fuse4seg.inference.fuse_image import fuse_whole_image

    model, patch = predictor.network.eval(), tuple(predictor.configuration_manager.patch_size)
    weight = compute_gaussian(patch, sigma_scale=1 / 8, value_scaling_factor=10, dtype=torch.float32,
                              device=torch.device("cpu"))
    axes = [channels.ndim - len(patch) + axis for axis in predictor.allowed_mirroring_axes or ()]
    mean = 0.0
    for flags in product((False, True), repeat=len(axes)):
        flipped = [axis for axis, flag in zip(axes, flags, strict=True) if flag]
        shown = fuse_whole_image(model, channels.flip(flipped), patch_size=patch, device=predictor.device).shown
        images = shown.transpose(0, 1) if len(patch) == 2 else shown[None]
        padded, inside = pad_nd_image(images, patch, "constant", {"value": 0}, return_slicer=True)
        total, weights = None, torch.zeros(padded.shape[2:])
        for corner in product(*compute_steps_for_sliding_window(padded.shape[2:], patch, predictor.tile_step_size)):
            window = tuple(slice(start, start + extent) for start, extent in zip(corner, patch, strict=True))
            weights[window] += weight
            for index, image in enumerate(padded):
                with torch.inference_mode():
                    logits = model.segmentation(image[None][(..., *window)].to(predictor.device))[0].float().cpu()
                if total is None:
                    total = torch.zeros(len(padded), len(logits), *padded.shape[2:])
                total[(index, slice(None), *window)] += logits * weight
        found = (total / weights)[(slice(None), slice(None), *inside[2:])]
        mean = mean + (found.transpose(0, 1) if len(patch) == 2 else found[0]).flip(flipped)
    return mean


if __name__ == "__main__":
    sys.exit(main())
