"""A million cases on paper: what a case costs on a CPU, measured, and on a GPU, counted; how many CPU workers feed a GPU.

Seconds of a CPU are those that the process computed, so that other programs hardly matter. A GPU's are the network's operations
over what it does in a second, which is an assumption. A simulation of the queue then says what workers and GPUs give together.

Example:
    python benchmarks/scale.py -o scale.json
"""

from __future__ import annotations

import argparse
import heapq
import random
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from timing import save, show

from fuse4seg.cli.command import make_parser, run_command

if TYPE_CHECKING:
    from fuse4seg.inference.model import ModelDescription

#: A case as BraTS has them, four modalities and three labels; its patch, and the widths of nnU-Net's network for it.
SHAPE, MODALITIES, CLASSES, PATCH = (155, 240, 240), 4, 4, (192, 160)
WIDTHS, STRIDES = (32, 64, 128, 256, 512, 512), ((1, 1), *((2, 2),) * 5)
#: Operations in a second that are assumed of GPUs, a fraction of what their makers name for half precision.
GPUS = {"20 TFLOP/s": 20e12, "60 TFLOP/s": 60e12, "200 TFLOP/s": 200e12}
MILLION = 10**6


class Seconds(NamedTuple):
    """Of one case: preparing and exporting it on a CPU core, and the network on a GPU."""

    prepare: float
    network: float
    export: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = make_parser("Reckon what many cases cost.", example="python benchmarks/scale.py -o scale.json")
    parser.add_argument("--cases", type=int, default=3, help="to measure (default: %(default)s)")
    parser.add_argument("--simulated", type=int, default=1000, help="cases in the queue (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the phantoms and of the queue")
    parser.add_argument("-o", dest="output", type=Path, metavar="JSON", help="write the figures to this file, too")
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    operations = operations_of_a_case()
    with tempfile.TemporaryDirectory() as folder:
        measured = {spacing: measure_cases(Path(folder), options.cases, spacing=spacing, seed=options.seed)
                    for spacing in (1.0, 0.8)}
    costs = [{"resampled to mm": spacing, **{name: statistics.mean(case[name] for case in cases) for name in cases[0]}}
             for spacing, cases in measured.items()]
    show(costs)
    rows = [row for spacing, cases in measured.items() for row in reckon(cases, operations, spacing=spacing, options=options)]
    show(rows)
    save({"operations": operations, "cases": costs, "scale": rows, "simulated": options.simulated}, options.output)


def reckon(cases: Sequence[dict[str, float]], operations: float, *, spacing: float,
           options: argparse.Namespace) -> list[dict[str, Any]]:
    """For each GPU: workers that feed it, how busy the simulation finds it with them and with half of them, and the costs."""
    rows = []
    for name, speed in GPUS.items():
        drawn = random.Random(options.seed)
        queue = [Seconds(case["prepare"], operations / speed, case["export"])
                 for case in drawn.choices(cases, k=options.simulated)]
        cpu, gpu = statistics.mean(case.prepare + case.export for case in queue), operations / speed
        needed = max(1, -(-cpu // gpu))
        busy = {workers: sum(case.network for case in queue) / simulate(queue, workers=workers, gpus=1)
                for workers in {max(1, int(needed) // 2), int(needed), int(needed) + 1}}
        rows.append({"resampled to mm": spacing, "GPU": name, "seconds of it": gpu, "cores that feed it": int(needed),
                     "busy": busy[int(needed)], "busy with one more": busy[int(needed) + 1],
                     "busy with half": busy[max(1, int(needed) // 2)], "GPU hours of a million": gpu * MILLION / 3600,
                     "core hours": cpu * MILLION / 3600})
    return rows


# ------------------------------------------------------------------------------ the queue

def simulate(cases: Sequence[Seconds], *, workers: int, gpus: int, waiting: int | None = None) -> float:
    """Seconds until all cases are done: workers prepare and export them, GPUs compute in between.

    Args:
        cases: In the order that they are taken.
        workers: Processes on CPUs; one that is free exports, if anything waits for that, else prepares.
        gpus: Each computes one case at a time.
        waiting: Cases that may be prepared or being prepared; twice as many as there are workers and GPUs if None.
    """
    most = 2 * (workers + gpus) if waiting is None else waiting
    todo, prepared, computed = deque(cases), deque[Seconds](), deque[Seconds]()
    free, held, now, number = [workers, gpus], 0, 0.0, 0
    events: list[tuple[float, int, int, Seconds]] = []
    while todo or prepared or computed or events:
        started: list[tuple[float, int, Seconds]] = []
        while free[1] and prepared:
            case, free[1], held = prepared.popleft(), free[1] - 1, held - 1
            started.append((case.network, 1, case))
        while free[0] and (computed or (todo and held < most)):
            free[0] -= 1
            if computed:
                case = computed.popleft()
                started.append((case.export, 2, case))
            else:
                case, held = todo.popleft(), held + 1
                started.append((case.prepare, 0, case))
        for seconds, stage, case in started:
            heapq.heappush(events, (now + seconds, number := number + 1, stage, case))
        now, _, stage, case = heapq.heappop(events)
        free[1 if stage == 1 else 0] += 1
        if stage < 2:
            (prepared, computed)[stage].append(case)
    return now


# ------------------------------------------------------------------------------ a case

def operations_of_a_case() -> float:
    """Multiplications and additions of both networks over a case, windows overlapping by half, mirrored along both axes."""
    import torch
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

    from fuse4seg.networks.fuse_then_segment import FuseThenSegment

    follower = {"network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet", "_kw_requires_import": [],
                "arch_kwargs": {"n_stages": len(WIDTHS), "features_per_stage": WIDTHS, "conv_op": nn.Conv2d,
                                "kernel_sizes": [[3, 3]] * len(WIDTHS), "strides": STRIDES, "n_conv_per_stage": [2] * len(WIDTHS),
                                "n_conv_per_stage_decoder": [2] * (len(WIDTHS) - 1), "conv_bias": True,
                                "norm_op": nn.InstanceNorm2d, "norm_op_kwargs": {"affine": True}, "nonlin": nn.LeakyReLU}}
    leader = {"network_class_name": "fuse4seg.leaders.gate.GateLeader", "_kw_requires_import": [],
              "arch_kwargs": {"detail_features": 16, "base_features": 32, "couplings": 1, "transformers": 2}}
    with torch.device("meta"):
        network = FuseThenSegment(MODALITIES, CLASSES, conv_op=nn.Conv2d, strides=STRIDES, leader=leader, follower=follower,
                                  windows=[[-2.0, 2.0]] * MODALITIES).eval()
        whole = torch.empty(1, MODALITIES, *(-(-extent // 32) * 32 for extent in SHAPE[1:]))
        with FlopCounterMode(display=False) as fusing:
            network.fuse(whole)
        with FlopCounterMode(display=False) as segmenting:
            network.segmentation(torch.empty(1, network.fusion.colours, *PATCH))
    first, second = compute_steps_for_sliding_window(SHAPE[1:], PATCH, 0.5)
    windows = len(first) * len(second) * 4
    return SHAPE[0] * (fusing.get_total_flops() + windows * segmenting.get_total_flops())


def measure_cases(folder: Path, count: int, *, spacing: float, seed: int) -> list[dict[str, float]]:
    """Seconds of a core for each step of cases, and their megabytes before and after."""
    import numpy as np
    import SimpleITK as sitk

    random_levels, found = np.random.default_rng(seed), []
    description = _description(spacing)
    for number in range(count):
        name = f"case_{spacing:g}_{number}"
        for channel in range(MODALITIES):
            # Brain-like: half of the voxels are air, which packs well.
            levels = random_levels.normal(500, 120, SHAPE).clip(1).astype(np.int16)
            levels[:, :40], levels[:, -40:], levels[:, :, :50], levels[:, :, -50:] = 0, 0, 0, 0
            sitk.WriteImage(sitk.GetImageFromArray(levels), str(folder / f"{name}_{channel:04d}.nii.gz"))
        found.append(_measure_case(folder, name, description))
    return found


def _measure_case(folder: Path, name: str, description: ModelDescription) -> dict[str, float]:
    import numpy as np

    from fuse4seg.datasets.raw import Case
    from fuse4seg.inference.export_case import SEGMENTATIONS, Export, Predicted, export_case
    from fuse4seg.inference.predict_case import CasePrediction
    from fuse4seg.inference.preprocess_case import preprocessed_images
    from fuse4seg.inference.run_record import checksums

    case = Case(name, tuple(sorted(folder.glob(f"{name}_*.nii.gz"))))
    begin = time.process_time()
    checksums(case.images)
    channels, properties = preprocessed_images(case, description)
    prepared = time.process_time()
    logits = np.random.default_rng(0).normal(size=(CLASSES, *channels.shape[1:])).astype(np.float16)
    fused = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), dtype=np.uint8)
    output = folder / "out"
    output.mkdir(exist_ok=True)
    computed = time.process_time()
    exported = export_case(Predicted(case, properties, CasePrediction(logits, properties, (fused,), (None,))),
                           Export(description, output, (0,), 0, SEGMENTATIONS))
    ended = time.process_time()
    return {"prepare": prepared - begin, "export": ended - computed,
            "megabytes read": sum(path.stat().st_size for path in case.images) / 1e6,
            "megabytes written": sum(path.stat().st_size for path in exported.files) / 1e6}


def _description(spacing: float) -> ModelDescription:
    """Plans that resample to cubes of so many millimetres."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from fuse4seg.inference.model import ModelDescription

    resampling = {f"resampling_fn_{kind}": "resample_data_or_seg_to_shape" for kind in ("data", "seg", "probabilities")}
    arguments = {f"resampling_fn_{kind}_kwargs": {"is_seg": kind == "seg", "order": 3 if kind == "data" else 1, "order_z": 0,
                                                  "force_separate_z": None} for kind in ("data", "seg", "probabilities")}
    configuration = {"spacing": [spacing] * 3, "patch_size": [128] * 3, "architecture": {}, "data_identifier": "data",
                     "normalization_schemes": ["ZScoreNormalization"] * MODALITIES, "use_mask_for_norm": [True] * MODALITIES,
                     "preprocessor_name": "DefaultPreprocessor", **resampling, **arguments}
    plans = PlansManager({"dataset_name": "Dataset001_Scale", "plans_name": "Plans", "configurations": {"here": configuration},
                          "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "image_reader_writer": "SimpleITKIO",
                          "label_manager": "LabelManager",
                          "foreground_intensity_properties_per_channel": {str(index): {} for index in range(MODALITIES)}})
    labels = {"background": 0, **{f"label {index}": index for index in range(1, CLASSES)}}
    return ModelDescription(plans, plans.get_configuration("here"), {
        "channel_names": {str(index): f"M{index}" for index in range(MODALITIES)}, "file_ending": ".nii.gz", "labels": labels})


if __name__ == "__main__":
    sys.exit(main())
