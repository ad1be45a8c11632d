"""Cost of the fusion network, forward and backward, over the number of modalities and over pixels; 1 is linear.

Example:
    python benchmarks/scaling.py -o scaling.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from timing import add_timing_flags, compare, measure, save, show

from fuse4seg.cli.command import make_parser, run_command

MODALITIES, SIDES = (2, 3, 4, 8), (128, 256, 512)
#: Strides of nnU-Net's 2D U-Net, of which the fusion network uses the first.
STRIDES = (1, 2, 2, 2, 2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = make_parser("Time the fusion network over modalities and pixels.", example="python benchmarks/scaling.py")
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"))
    parser.add_argument("--batch_size", type=int, default=2)
    add_timing_flags(parser, rounds=10)
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.machine import choose_device

    device = choose_device(options.device)
    first, side = MODALITIES[0], SIDES[0]
    by_modalities = {str(count): _pass(count, side, options.batch_size, device) for count in MODALITIES}
    by_side = {str(size): _pass(first, size, options.batch_size, device) for size in SIDES}
    tables = {
        "modalities": compare(measure(by_modalities, rounds=options.rounds), peer=str(first),
                              expected={str(count): count / first for count in MODALITIES}),
        "side": compare(measure(by_side, rounds=options.rounds), peer=str(side),
                        expected={str(size): (size / side)**2 for size in SIDES})}
    for (name, rows), what in zip(tables.items(), (f"at {side} x {side}", f"of {first} modalities"), strict=True):
        print(f"\nover {name}, {what}: ratio over linear")
        show(rows)
    save(tables, options.output, device=device.type)


def _pass(modalities: int, side: int, batch_size: int, device: Any) -> Callable[[], object]:
    """Forward and backward for the parameters."""
    import torch

    from fuse4seg.leaders.gate import GateLeader

    network = GateLeader(modalities, conv_op=torch.nn.Conv2d, strides=STRIDES).to(device)
    sources = torch.rand(batch_size, modalities, side, side, device=device)

    def act() -> None:
        network.zero_grad(set_to_none=True)
        network(sources).image.square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return act


if __name__ == "__main__":
    sys.exit(main())
