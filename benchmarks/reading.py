"""How far what the segmentation network reads from the fused image lies from the sources, and what that costs.

Of every sixth slice that holds foreground, of a fold's validation cases. At voxels with foreground, in [0, 1]: root mean square
of the difference, and correlation, of each modality and of their mean. And the mean Dice, without mirroring, of what the same
network segments from what it reads, and from the sources in their place.

Example:
    python benchmarks/reading.py --root DATA 502 nnUNet_results/Dataset502_BraTS/Fuse4SegTrainer__Small__2d -f 0 -o reading.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from timing import save, show

from fuse4seg.cli.command import make_parser, run_command

EVERY = 6


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = make_parser("Compare what is read from fused images with their sources.",
                         example="python benchmarks/reading.py 502 MODEL -f 0")
    parser.add_argument("dataset")
    parser.add_argument("model", type=Path, help="trained model's folder, 2d")
    parser.add_argument("-f", dest="fold", type=int, default=0)
    parser.add_argument("-o", dest="output", type=Path, metavar="JSON", help="write the figures to this file, too")
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    import numpy as np
    import torch

    from fuse4seg.datasets.raw import channel_names
    from fuse4seg.errors import OptionError
    from fuse4seg.inference.predictor import load_predictor

    predictor = load_predictor(options.model, folds=[options.fold], device=torch.device("cpu"))
    model = predictor.network.eval()
    if not model.demosaic:
        raise OptionError("model", f"{options.model} reads no modalities. Give one that was trained with demosaicing.")
    pairs, scores = [], []
    for images, labels in _validation_slices(predictor, options):
        with torch.inference_mode():
            seen = model.fuse(images)
            images_of_each = torch.stack([model.fusion.read(seen.fused.image), seen.sources])
            logits = [model.segmentation(model.window.undo(part)).transpose(0, 1) for part in images_of_each]
        pairs.append(images_of_each.movedim(2, -1)[:, torch.from_numpy(labels > 0)])
        scores.append([_dice(predictor, part, labels) for part in logits])
    if not pairs:
        raise OptionError("model", f"{options.model} has no validation of fold {options.fold}. Name a fold that was validated.")
    voxels = torch.cat(pairs, dim=1).double()
    read, sources = torch.cat([voxels, voxels.mean(dim=-1, keepdim=True)], dim=-1)
    rows = [{"modality": name, "root mean square": (read - sources)[:, index].square().mean().sqrt().item(),
             "correlation": torch.corrcoef(torch.stack([sources[:, index], read[:, index]]))[0, 1].item()}
            for index, name in enumerate([*channel_names(predictor.dataset_json), "their mean"])]
    show(rows)
    # Over the cases of each class, then over the classes; NaN where a case has none of it.
    means = np.nanmean(np.asarray(scores), axis=0).mean(axis=-1)
    segmentations = [{"segmented from": source, "Dice": dice}
                     for source, dice in zip(("what is read", "the sources"), means.tolist(), strict=True)]
    show(segmentations)
    save({"voxels": len(sources), "reading": rows, "segmentations": segmentations}, options.output)


def _validation_slices(predictor: Any, options: argparse.Namespace) -> Iterator[tuple[Any, Any]]:
    """Preprocessed slices (B, C, Y, X) and their labels (B, Y, X) of each case, padded to what the network can halve."""
    import numpy as np
    import torch
    from acvl_utils.cropping_and_padding.padding import pad_nd_image
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    from fuse4seg.paths import PREPROCESSED, data_root, dataset_name

    folder = data_root(PREPROCESSED) / dataset_name(options.dataset)
    data = nnUNetDatasetBlosc2(str(folder / predictor.configuration_manager.data_identifier))
    steps = np.prod(predictor.configuration_manager.network_arch_init_kwargs["strides"], axis=0).tolist()
    ending = predictor.dataset_json["file_ending"]
    for path in sorted((options.model / f"fold_{options.fold}" / "validation").glob(f"*{ending}")):
        channels, labels, _, _ = data.load_case(path.name.removesuffix(ending))
        labels = np.asarray(labels[:])[0]
        slices = np.flatnonzero((labels > 0).any(axis=(1, 2)))[::EVERY]
        images = torch.from_numpy(np.ascontiguousarray(channels[:][:, slices])).float().transpose(0, 1)
        yield (pad_nd_image(images, shape_must_be_divisible_by=steps),
               pad_nd_image(labels[slices], shape_must_be_divisible_by=steps))


def _dice(predictor: Any, logits: Any, labels: Any) -> list[float]:
    """Of each class."""
    from fuse4seg.evaluation.confusion import confusion
    from fuse4seg.evaluation.dice import dice

    manager = predictor.label_manager
    segmentation = manager.convert_logits_to_segmentation(logits).numpy()
    classes = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    return [dice(confusion(segmentation, labels, each)) for each in classes]


if __name__ == "__main__":
    sys.exit(main())
