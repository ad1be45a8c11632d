"""Wall time of f4s_predict over nnUNetv2_predict on the same folder, and how many of the fast path's labels are a plain loop's.

Prints the ratios, mirroring on; with -device cuda those on a GPU; and the share of equal labels.

Both models lie in nnUNet_results, trained with the same plan: ours by f4s_train, stock nnU-Net's by
``python -m fuse4seg.comparison.stock_nnunet`` (whose time does not depend on how well it is trained).

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
    parser.add_argument("--warm_up", type=int, default=1, help="rounds before those that count (default: %(default)s)")
    add_timing_flags(parser, rounds=3)
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.comparison.stock_nnunet import STOCK_PLANS
    from fuse4seg.errors import CheckpointNotFoundError
    from fuse4seg.paths import RESULTS, data_root, dataset_name

    place = data_root(RESULTS) / dataset_name(options.dataset, variables=(RESULTS,))
    stock = place / f"nnUNetTrainer__{STOCK_PLANS}__{options.configuration}"
    ours = place / f"Fuse4SegTrainer__{options.plans}__{options.configuration}"
    for model in (stock, ours):
        checkpoint = model / f"fold_{options.fold}" / "checkpoint_final.pth"
        if not checkpoint.is_file():
            raise CheckpointNotFoundError(checkpoint, "Train it first (ours: f4s_train, stock nnU-Net: "
                                                      "python -m fuse4seg.comparison.stock_nnunet).")
    shared = ["-i", str(options.images), "-f", options.fold, "-device", options.device]
    contenders: dict[str, Callable[[], object]] = {"nnU-Net": _command(STOCK, [*shared, "-m", str(stock)])}
    for precision in options.precision:
        contenders[f"Fuse4Seg, {precision}"] = _command(OURS, [
            *shared, "-d", options.dataset, "-c", options.configuration, "-p", options.plans, "--precision", precision])
    # First, because it also warms the disk's cache up, and shows at once where the models cannot be used.
    agreement = [_agreement(ours, options, precision) for precision in options.precision]
    show(agreement)
    rows = compare(measure(contenders, rounds=options.rounds, warm_up=options.warm_up), peer="nnU-Net")
    show(rows)
    save({"rows": rows, "agreement": agreement}, options.output, device=options.device)


def _command(code: str, arguments: Sequence[str]) -> Callable[[], object]:
    """Run a command in a process of its own, which writes into a fresh folder."""

    def act() -> None:
        with tempfile.TemporaryDirectory() as output, tempfile.TemporaryFile("w+") as said:
            run = subprocess.run([sys.executable, "-c", code, *arguments, "-o", output], stdout=said, stderr=said, check=False)
            if run.returncode:
                said.seek(0)
                sys.exit(f"{arguments}:\n{said.read()}")

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
    """Logits in float32, up to a factor: single windows of the fused image, or of every mirrored copy fused anew."""
    import torch

    from fuse4seg.inference.fuse_image import fuse_whole_image
    from fuse4seg.inference.sliding_window import mirrored_copies

    model, patch = predictor.network.eval().to(memory_format=torch.contiguous_format), predictor.configuration_manager.patch_size
    axes = predictor.allowed_mirroring_axes or ()

    def shown(image: torch.Tensor) -> torch.Tensor:
        return fuse_whole_image(model, image, patch_size=patch, device=predictor.device).shown

    if predictor.mirror_fused:
        return _looped(predictor, shown(channels), mirrored_copies(axes, first=2))
    return sum(_looped(predictor, shown(channels.flip(flipped)), [()]).flip(flipped)
               for flipped in mirrored_copies(axes, first=channels.ndim - len(patch)))


def _looped(predictor: Fuse4SegPredictor, shown: torch.Tensor, copies: Sequence[tuple[int, ...]]) -> torch.Tensor:
    """Logits (classes, Z, Y, X) of windows that go through the network alone, and sums over mirrored copies of each."""
    import torch
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window

    from fuse4seg.inference.tiles import pad_to_tiles

    model, patch = predictor.network, tuple(predictor.configuration_manager.patch_size)
    network, grid = model.segmentation, model.reading_grid
    weight = compute_gaussian(patch, sigma_scale=1 / 8, value_scaling_factor=10, dtype=torch.float32, device=torch.device("cpu"))
    images = shown.transpose(0, 1) if len(patch) == 2 else shown[None]
    padded, inside = pad_to_tiles(images, tile=patch, on_grid=grid)
    total, weights = None, torch.zeros(padded.shape[2:])
    steps = compute_steps_for_sliding_window(padded.shape[2:], patch, predictor.tile_step_size)
    for corner in product(*([start - start % step for start in row] for row, step in zip(steps, grid, strict=True))):
        window = tuple(slice(start, start + extent) for start, extent in zip(corner, patch, strict=True))
        weights[window] += weight
        for index, image in enumerate(padded):
            part = model.read(image[None][(..., *window)].to(predictor.device))
            with torch.inference_mode():
                logits = sum(network(part.flip(axes)).flip(axes) for axes in copies)[0].float().cpu()
            if total is None:
                total = torch.zeros(len(padded), len(logits), *padded.shape[2:])
            total[(index, slice(None), *window)] += logits * weight
    found = (total / weights)[inside]
    return found.transpose(0, 1) if len(patch) == 2 else found[0]


if __name__ == "__main__":
    sys.exit(main())
