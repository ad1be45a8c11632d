"""Predicting on workers: Dask over processes of this machine, and what killed workers cost.

Time: the same cases by ``--devices`` and by a cluster of this machine, with as many processes, which hold the model already.
Kills: one worker of the cluster is killed at a moment drawn evenly over an undisturbed run's time; files are then compared. And
a case that kills every worker that takes it.

Example:
    python benchmarks/farm.py -m MODEL -i imagesTs --cases 12 --workers 3 --kills 10 -o farm.json
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))

from kill_predict import contents
from killer_case import KILLER, Killing
from timing import add_timing_flags, compare, measure, save, show

from fuse4seg.cli.command import make_parser, run_command

if TYPE_CHECKING:
    from fuse4seg.farm.farm import Farm


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status, 1 where an output differed."""
    parser = make_parser("Time and disturb prediction on workers.", example="python benchmarks/farm.py -m MODEL -i imagesTs")
    parser.add_argument("-m", dest="model", type=Path, required=True, help="folder of a trained model")
    parser.add_argument("-i", dest="images", type=Path, required=True, help="folder of cases, copied as often as needed")
    parser.add_argument("--cases", type=int, default=12, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--kills", type=int, default=10, help="trials with a killed worker (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and of who is killed")
    add_timing_flags(parser, rounds=3)
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> int:
    from distributed import LocalCluster

    from fuse4seg.farm.cluster import DaskFarm
    from fuse4seg.farm.processes import ProcessFarm

    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch, LocalCluster(
            n_workers=options.workers, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL) as cluster:
        images = copied(options.images, Path(scratch, "in"), options.cases)
        with ProcessFarm(["cpu"] * options.workers) as processes, DaskFarm(cluster.scheduler_address) as dask:
            dask.device = "cpu"
            runs = {name: partial(predict, farm, options.model, images, Path(scratch, name))
                    for name, farm in (("processes", processes), ("Dask", dask))}
            rows = compare(measure(runs, rounds=options.rounds), peer="processes")
            show(rows)
            expected, seconds = contents(Path(scratch, "processes")), rows[1]["seconds"]
            moments = random.Random(options.seed)
            kills = [_killed(cluster, runs["Dask"], Path(scratch, "Dask"), moments, seconds, expected)
                     for _ in range(options.kills)]
            if kills:
                show(kills)
            killing = _with_killer(dask, options.model, images, Path(scratch, "killing"), expected)
            show([killing])
    equal = sum(kill["equal"] for kill in kills)
    print(f"equal to an undisturbed run: {equal} of {len(kills)}")
    save({"rows": rows, "kills": kills, "equal": equal, "killer": killing, "cases": options.cases, "workers": options.workers},
         options.output)
    return 0 if equal == len(kills) and killing["named"] and killing["others_equal"] else 1


def copied(images: Path, folder: Path, count: int) -> Path:
    """So many cases, as case_00_0000, ..., of those that are there, over and over."""
    folder.mkdir()
    by_case: dict[str, list[Path]] = {}
    for path in sorted(images.glob("*_[0-9][0-9][0-9][0-9].*")):
        by_case.setdefault(path.name.rsplit("_", 1)[0], []).append(path)
    files = list(by_case.values())
    for number in range(count):
        for path in files[number % len(files)]:
            shutil.copy(path, folder / f"case_{number:02d}_{path.name.rsplit('_', 1)[1]}")
    return folder


def predict(farm: Farm, model: Path, images: Path, output: Path) -> list[str]:
    """Predict a folder with a farm; gives what kept cases from being predicted."""
    from fuse4seg.errors import FaultyCasesError
    from fuse4seg.inference.find_model import model_in
    from fuse4seg.inference.model import load_for, load_model
    from fuse4seg.inference.predict_folder import Conduct, predict_folder

    found = model_in(model)
    loaded = load_for(farm, partial(load_model, model, folds=found.folds[:1]), precision="float32")
    try:
        predict_folder(loaded, images, output, folds=found.folds[:1], conduct=Conduct(farm=farm))
    except FaultyCasesError as error:
        return str(error).splitlines()
    return []


def _killed(cluster: Any, run: Callable[[], list[str]], output: Path, moments: random.Random, seconds: float,
            expected: dict[str, str]) -> dict[str, Any]:
    """Kill a worker in the middle of a run into an empty folder."""
    shutil.rmtree(output)
    after, victim = moments.uniform(0, seconds), moments.randrange(10**6)

    def kill() -> None:
        pids = sorted(worker.pid for worker in cluster.workers.values() if worker.pid)
        if pids:
            os.kill(pids[victim % len(pids)], signal.SIGKILL)

    timer = threading.Timer(after, kill)
    begin = time.perf_counter()
    timer.start()
    faults = run()
    timer.join()
    return {"killed after": after, "seconds": time.perf_counter() - begin, "faults": len(faults),
            "equal": contents(output) == expected}


def _with_killer(farm: Farm, model: Path, images: Path, output: Path, expected: dict[str, str]) -> dict[str, Any]:
    """The same cases and one that kills every worker it meets."""
    for path in images.glob("case_00_*"):
        shutil.copy(path, images / f"{KILLER}_{path.name.rsplit('_', 1)[1]}")
    whole, run = _whole_case(), partial(predict, farm, model, images, output)
    begin = time.perf_counter()
    with whole:
        faults = run()
    found = {name: known for name, known in contents(output).items() if name.endswith(".nii.gz")}
    wanted = {name: known for name, known in expected.items() if name.endswith(".nii.gz")}
    return {"named": [line for line in faults if f"case {KILLER}" in line][:1], "others_equal": found == wanted,
            "seconds": time.perf_counter() - begin}


def _whole_case() -> Any:
    """Puts :class:`Killing` in the place of a case's steps, within a block."""
    from unittest import mock

    from fuse4seg.inference import folder_run

    steps = folder_run.WholeCase
    return mock.patch.object(folder_run, "WholeCase", lambda *arguments: Killing(steps(*arguments)))


if __name__ == "__main__":
    sys.exit(main())
