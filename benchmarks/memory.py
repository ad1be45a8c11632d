"""Memory counted on the meta device over what the CPU's allocator hands out, for the plan of a configuration.

Saved activations: what is still alive after a forward pass of half a batch in training, output included. Full precision.

Example:
    python benchmarks/memory.py --root DATA 502 2d -o memory.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from timing import save, show

from fuse4seg.cli.command import make_parser, run_command

MEGABYTE = 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = make_parser("Compare counted with allocated memory.", example="python benchmarks/memory.py 502 2d")
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("-p", dest="plans", default="Fuse4SegPlans")
    parser.add_argument("-o", dest="output", type=Path, metavar="JSON", help="write the figures to this file, too")
    return run_command(_run, parser, arguments)


def allocated(compute: Callable[[], object]) -> int:
    """Bytes that the allocator has handed out and not got back when ``compute`` is done, by PyTorch's own record."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        kept = compute()
    size = sum(event.nbytes() for event in record.profiler.kineto_results.events() if event.name() == "[memory]")
    del kept
    return size


def _run(options: argparse.Namespace) -> None:
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from fuse4seg.datasets.dataset_json import read_dataset_json
    from fuse4seg.paths import PREPROCESSED, data_root, dataset_name
    from fuse4seg.planning.live_bytes import FlashAttention, LiveBytes
    from fuse4seg.plans import read_plans

    folder = data_root(PREPROCESSED) / dataset_name(options.dataset)
    plans = PlansManager(read_plans(folder / f"{options.plans}.json"))
    plan, description = plans.get_configuration(options.configuration), read_dataset_json(folder)
    model = get_network_from_plans(plan.network_arch_class_name, plan.network_arch_init_kwargs,
                                   plan.network_arch_init_kwargs_req_import, len(description["channel_names"]),
                                   plans.get_label_manager(description).num_segmentation_heads, deep_supervision=True)
    half = plan.batch_size // 2
    parts = {"fusion network": (lambda images: model.fusion(images), model.modalities),
             "segmentation network": (lambda images: model.segmentation(images), model.fusion.colours),
             "both": (lambda images: model(images), model.modalities)}
    rows = []
    for name, (forward, channels) in parts.items():
        images = torch.rand(half, channels, *plan.patch_size)
        measured = allocated(lambda forward=forward, images=images: forward(images))
        stand_in = images.to("meta")
        model.to("meta")
        with FlashAttention(), LiveBytes([*model.parameters(), *model.buffers(), stand_in]) as count:
            kept = forward(stand_in)
            counted = count.live
        del kept
        model.to_empty(device="cpu")
        rows.append({"part": name, "counted_mb": counted / MEGABYTE, "allocated_mb": measured / MEGABYTE,
                     "ratio": counted / measured})
    show(rows)
    save({"rows": rows, "plan": plan.configuration}, options.output)


if __name__ == "__main__":
    sys.exit(main())
