"""How far what the segmentation network reads from the fused image lies from the sources, on a fold's validation cases.

Of every sixth slice that holds foreground, at voxels with foreground, in [0, 1]: root mean square of the difference, and
correlation, of each modality.

Example:
    python benchmarks/reading.py --root DATA 502 nnUNet_results/Dataset502_BraTS/Fuse4SegTrainer__Small__2d -f 0 -o reading.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

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
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    from fuse4seg.datasets.raw import channel_names
    from fuse4seg.errors import OptionError
    from fuse4seg.inference.predictor import load_predictor
    from fuse4seg.paths import PREPROCESSED, data_root, dataset_name

    predictor = load_predictor(options.model, folds=[options.fold], device=torch.device("cpu"))
    model = predictor.network.eval()
    if model.fusion.halftone is None:
        raise OptionError("model", f"{options.model} has no halftone to read. Give one that was trained with a halftone.")
    folder = data_root(PREPROCESSED) / dataset_name(options.dataset)
    data = nnUNetDatasetBlosc2(str(folder / predictor.configuration_manager.data_identifier))
    pairs = []
    ending = predictor.dataset_json["file_ending"]
    for path in sorted((options.model / f"fold_{options.fold}" / "validation").glob(f"*{ending}")):
        case = path.name.removesuffix(ending)
        channels, labels, _, _ = data.load_case(case)
        marked = np.asarray(labels[:])[0] > 0
        slices = np.flatnonzero(marked.any(axis=(1, 2)))[::EVERY]
        images = torch.from_numpy(np.ascontiguousarray(channels[:][:, slices])).float().transpose(0, 1)
        with torch.no_grad():
            seen = model.fuse(images)
            read = model.fusion.read(seen.fused.image)
        pairs.append(torch.stack([seen.sources, read]).movedim(2, -1)[:, torch.from_numpy(marked[slices])])
    sources, read = torch.cat(pairs, dim=1).double()
    rows = [{"modality": name, "root mean square": (read - sources)[:, index].square().mean().sqrt().item(),
             "correlation": torch.corrcoef(torch.stack([sources[:, index], read[:, index]]))[0, 1].item()}
            for index, name in enumerate(channel_names(predictor.dataset_json))]
    show(rows)
    save({"voxels": len(sources), "reading": rows}, options.output)


if __name__ == "__main__":
    sys.exit(main())
