"""Peak memory of f4s_predict on a large case, on top of what it takes for a small one.

The case is synthetic. Convolutions of one voxel stand in for both networks, which on a CPU would take hours: what they take
belongs to the model, and is bounded by the voxels of a pass, whatever the size of the case. Peaks are sums over all processes
of what each holds for itself, with its share of what they share (PSS).

Example:
    python benchmarks/predict_memory.py nnUNet_results/Dataset502_BraTS/Fuse4SegTrainer__Fuse4SegPlans__2d -o memory.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from timing import save, show

from fuse4seg.cli.command import make_parser, run_command

GIGABYTE = 1e9
SMALL = (8, 64, 64)
#: f4s_predict with stand-ins that cost next to nothing: the mean of the sources, and a ramp per class.
COMMAND = """
import sys, torch
from fuse4seg.paths import prepare_environment
prepare_environment()
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from fuse4seg.cli.predict import main
from fuse4seg.leaders.gate import GateLeader
from fuse4seg.networks.leader import Fused
def fuse(self, sources, **_):
    mean = sources.mean(dim=1, keepdim=True)
    return Fused(mean.expand(-1, self.colours, *mean.shape[2:]))
def segment(self, images):
    weights = ramp.view(-1, 1, 1, 1).expand(-1, images.shape[1], -1, -1) / images.shape[1]
    return torch.nn.functional.conv2d(images.float(), weights, ramp.flip(0) / 2)
GateLeader.forward, PlainConvUNet.forward, ramp = fuse, segment, torch.linspace(-1, 1, %d)
if __name__ == "__main__":
    sys.exit(main())
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = make_parser("Measure the peak memory of prediction.", example="python benchmarks/predict_memory.py MODEL")
    parser.add_argument("model", type=Path, help="folder Trainer__Plans__2d, whose plans are taken")
    parser.add_argument("--shape", type=int, nargs=3, default=(600, 512, 512), metavar=("Z", "Y", "X"))
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 0.8],
                        help="of the case's spacing within slices, over the plan's: 1 needs no resampling (default: 1 0.8)")
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="for f4s_predict; the last option here")
    parser.add_argument("-o", dest="output", type=Path, metavar="JSON", help="write the figures to this file, too")
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        model, spacing, channels, classes = model_of(options.model, root / "nnUNet_results" / "Dataset999_Large",
                                                      options.shape[1:])
        command = [sys.executable, "-c", COMMAND % classes, "--root", str(root), *options.flags]
        before = _peak(command, model, SMALL, spacing, channels)
        for scale in options.scales:
            found = _peak(command, model, options.shape, [step * scale for step in spacing], channels)
            rows.append({"shape": " x ".join(map(str, options.shape)), "channels": channels, "classes": classes, "scale": scale,
                         "peak, GB": found["peak"], "small case, GB": before["peak"],
                         "on top, GB": found["peak"] - before["peak"], "seconds": found["seconds"]})
            show(rows[-1:])
    save({"rows": rows, "flags": options.flags}, options.output)


def model_of(like: Path, dataset: Path, slices: Sequence[int]) -> tuple[Path, list[float], int, int]:
    """Write an untrained model with the plans of another, but whole slices as its patch.

    Returns:
        Its folder, spacing, channels and classes.
    """
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from fuse4seg.datasets.dataset_json import channel_names

    plans, dataset_json = (json.loads((like / name).read_text()) for name in ("plans.json", "dataset.json"))
    stride = 2 ** len(plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["strides"])
    plans["configurations"]["2d"]["patch_size"] = [-(-size // stride) * stride for size in slices]
    manager, channels = PlansManager(plans), len(channel_names(dataset_json))
    here, classes = manager.get_configuration("2d"), manager.get_label_manager(dataset_json).num_segmentation_heads
    network = get_network_from_plans(here.network_arch_class_name, here.network_arch_init_kwargs,
                                     here.network_arch_init_kwargs_req_import, channels, classes, allow_init=True,
                                     deep_supervision=False)
    folder = dataset / "Fuse4SegTrainer__Fuse4SegPlans__2d"
    (folder / "fold_0").mkdir(parents=True)
    for name, content in (("plans.json", plans), ("dataset.json", dataset_json)):
        (folder / name).write_text(json.dumps(content))
    torch.save({"network_weights": network.state_dict(), "trainer_name": "Fuse4SegTrainer",
                "init_args": {"configuration": "2d", "plans": plans}, "inference_allowed_mirroring_axes": (0, 1),
                "recipe": plans["fuse4seg"]["recipe"], "seed": 0}, folder / "fold_0" / "checkpoint_final.pth")
    return folder, list(here.spacing), channels, classes


def _peak(command: Sequence[str], model: Path, shape: Sequence[int], spacing: Sequence[float], channels: int) -> dict[str, Any]:
    """Largest sum over all processes of the command, GB, and seconds."""
    with tempfile.TemporaryDirectory() as images, tempfile.TemporaryDirectory() as output:
        ending = json.loads((model / "dataset.json").read_text())["file_ending"]
        for channel in range(channels):
            write_case(Path(images) / f"large_{channel:04d}{ending}", shape, spacing, seed=channel)
        begin, peak = time.perf_counter(), 0.0
        run = subprocess.Popen([*command, "-i", images, "-o", output, "-device", "cpu"])
        while run.poll() is None:
            peak = max(peak, sum(map(_bytes_of, _family(run.pid))))
            time.sleep(0.2)
        if run.returncode:
            sys.exit(run.returncode)
        return {"peak": peak / GIGABYTE, "seconds": time.perf_counter() - begin}


def write_case(path: Path, shape: Sequence[int], spacing: Sequence[float], *, seed: int) -> None:
    """Write noise in 16 bits with a border of zeros that a crop takes away."""
    import numpy as np
    import SimpleITK as sitk

    voxels = np.random.default_rng(seed).integers(1, 1000, size=shape, dtype=np.int16)
    voxels[:, :2] = 0
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing([*spacing[::-1], 1.5])
    sitk.WriteImage(image, str(path))


def _family(process: int) -> Iterator[int]:
    """A process and all that it started, directly or not."""
    yield process
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from _family(int(child))


def _bytes_of(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    sys.exit(main())
