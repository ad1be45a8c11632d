"""All that is claimed of a GPU, in ten minutes: memory, speed of training and prediction, mixed precision, and a training.

Everything is made here, on phantoms. Without a GPU, or with --small, the same runs on the CPU in a small form, which shows that
the script works and no more.

Example:
    python benchmarks/gpu.py --root bench/gpu -o gpu.json --page gpu.md
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from predict import STOCK, command_of
from step import chosen_trainer, our_trainer, stock_trainer, training_step
from timing import compare, measure, save, show

from fuse4seg.cli.command import make_parser, run_command
from fuse4seg.evaluation.table import format_table
from fuse4seg.side_by_side import own_command

DATASET = 997
GIGABYTE = 1e9
#: By which nnU-Net is told to compile.
COMPILE = "nnUNet_compile"
#: Iterations of an epoch of the training.
ITERATIONS = 25


@dataclass(frozen=True)
class Form:
    """How much is done.

    Attributes:
        targets: Gigabytes that are planned for; a GPU that has less leaves some out.
        configurations: That are measured.
        changes: Of the recipe.
        shape: Of the phantoms' voxels.
        rounds: Of each timing.
        iterations: After which losses of two precisions are compared.
        minutes: Of the training.
        choices: Of step.py, timed beside our usual step.
        backend: What compiles our networks.
    """

    targets: tuple[float, ...]
    configurations: tuple[str, ...]
    changes: tuple[str, ...]
    shape: tuple[int, int, int]
    rounds: int
    iterations: int
    minutes: float
    choices: tuple[str, ...]
    backend: str


WHOLE = Form((8, 16, 24), ("2d", "3d_fullres"), (), (96, 160, 144), 5, 50, 2.0,
             ("compile", "channels_last", "unfused", "bfloat16"), "inductor")
# On a CPU, what turns networks into C++ takes minutes.
SMALL = Form((0.1, 0.15), ("2d", "3d_fullres"), ("follower.features=8", "patches.largest_batch=4"), (32, 48, 40), 1, 3, 0.0,
             ("compile", "bfloat16"), "aot_eager")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = make_parser("Measure what is claimed of a GPU.", example="python benchmarks/gpu.py --root bench/gpu -o gpu.json")
    parser.add_argument("--small", action="store_true", help="the small form, on the CPU")
    parser.add_argument("-o", dest="output", type=Path, metavar="JSON", help="write the figures to this file, too")
    parser.add_argument("--page", type=Path, metavar="MD", help="and as a page")
    return run_command(_run, parser, arguments)


def _run(options: argparse.Namespace) -> None:
    from fuse4seg.files import written_whole
    from fuse4seg.machine import choose_device

    device = choose_device("cpu" if options.small else None)
    form = SMALL if device.type == "cpu" else WHOLE
    begin = time.perf_counter()
    plans = _prepare(form, device)
    tables = {"memory": _memory(plans, form, device), "iterations": _iterations(plans, form, device)}
    tables["precision"] = _precisions(plans, form, device)
    model, tables["training"] = _training(form, device, seconds=_seconds(tables["iterations"], form.configurations[0]))
    tables["prediction"] = _prediction(model, form, device)
    for name, rows in tables.items():
        print(f"\n{name}")
        show(rows)
    figures = {**tables, "allowance": needed_allowance(tables["memory"]), "small": form is SMALL,
               "minutes": (time.perf_counter() - begin) / 60}
    save(figures, options.output, device=device.type)
    if options.page is not None:
        with written_whole(options.page) as temporary:
            temporary.write_text(page_of(figures, device=device.type))


def _prepare(form: Form, device: Any) -> dict[float, tuple[dict[str, Any], dict[str, Any]]]:
    """A phantom dataset, planned for each target and preprocessed; plans and dataset.json by target."""
    import shutil

    from fuse4seg.datasets.dataset_json import read_dataset_json
    from fuse4seg.datasets.phantom import write_phantom_dataset
    from fuse4seg.files import make_writable_folder
    from fuse4seg.paths import PREPROCESSED, RAW, RESULTS, data_root, dataset_name
    from fuse4seg.planning.fingerprint import extract_fingerprint
    from fuse4seg.planning.memory_target import RESERVE, visible_gpu
    from fuse4seg.planning.options import PlanOptions
    from fuse4seg.planning.planner import plan_experiment
    from fuse4seg.planning.preprocess import preprocess
    from fuse4seg.plans import read_plans

    for root in (RAW, PREPROCESSED, RESULTS):
        make_writable_folder(data_root(root))
        for folder in data_root(root).glob(f"Dataset{DATASET}_*"):
            shutil.rmtree(folder)
    write_phantom_dataset(data_root(RAW), dataset_id=DATASET, training_cases=10, test_cases=4, seed=0, shape=form.shape)
    extract_fingerprint(DATASET, processes=2)
    gpu = visible_gpu() if device.type == "cuda" else None
    fitting = [target for target in form.targets if gpu is None or target <= min(gpu.total - RESERVE, gpu.free)]
    folder = data_root(PREPROCESSED) / dataset_name(DATASET)
    for target in fitting:
        plan_experiment(DATASET, PlanOptions(changes=form.changes, gpu_memory_target=target, plans_name=plans_name(target)))
    preprocess(DATASET, plans_name=plans_name(fitting[0]), configurations=form.configurations, processes=2)
    return {target: (read_plans(folder / f"{plans_name(target)}.json"), read_dataset_json(folder)) for target in fitting}


def plans_name(target: float) -> str:
    """Of the plans for so many gigabytes."""
    return f"Memory{target:g}"


# ------------------------------------------------------------------------------ memory

def _memory(plans: Mapping[float, Any], form: Form, device: Any) -> list[dict[str, Any]]:
    """Planned and counted over measured bytes, for every target and configuration."""
    from fuse4seg.planning.step_memory import CountedTraining, count_memory
    from fuse4seg.plans import planned_recipe

    rows = []
    for target, (content, dataset_json) in plans.items():
        for name in form.configurations:
            plan = content["configurations"][name]
            training = CountedTraining(len(dataset_json["channel_names"]), len(dataset_json["labels"]),
                                       planned_recipe(content, "plans"), mixed_precision=device.type == "cuda")
            counted = count_memory(plan["architecture"], plan["patch_size"], plan["batch_size"], training)
            measured = peak(partial(_three_steps, content, dataset_json, name, device), device)
            rows.append({"target": target, "configuration": name, "batch": plan["batch_size"],
                         "planned_gb": counted.total / GIGABYTE, "counted_gb": counted.counted / GIGABYTE,
                         "measured_gb": measured / GIGABYTE,
                         "planned/measured": counted.total / measured, "counted/measured": counted.counted / measured})
    return rows


def _three_steps(plans: dict[str, Any], dataset_json: dict[str, Any], configuration: str, device: Any) -> None:
    from fuse4seg.plans import planned_recipe

    trainer = our_trainer(plans, dataset_json, configuration, device, planned_recipe(plans, "plans").bilevel.hypergradient)
    act = training_step(trainer)
    for _ in range(3):
        act()


def peak(act: Callable[[], object], device: Any) -> int:
    """Most bytes that PyTorch held at a time while ``act`` ran: on a GPU reserved ones, gaps and workspace among them."""
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        act()
        return torch.cuda.max_memory_reserved()
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        act()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def needed_allowance(rows: Sequence[Mapping[str, Any]]) -> float:
    """Share of the counted bytes that would have to be added for every plan to fit."""
    return max(1 / row["counted/measured"] - 1 for row in rows)


# ------------------------------------------------------------------------------ speed and precision

def _iterations(plans: Mapping[float, Any], form: Form, device: Any) -> list[dict[str, Any]]:
    """Seconds per iteration over nnU-Net's, by the plans of the largest target; nnU-Net's is compiled, too, where it can be."""
    from fuse4seg.comparison.stock_nnunet import stock_plans
    from fuse4seg.plans import planned_recipe

    content, dataset_json = list(plans.values())[-1]
    rows = []
    for name in form.configurations:
        estimator = planned_recipe(content, "plans").bilevel.hypergradient
        steps = {}
        for contender, asked in (("nnU-Net", "f"), ("nnU-Net, compile", "t")):
            os.environ[COMPILE] = asked
            steps[contender] = training_step(stock_trainer(stock_plans(content), dataset_json, name, device))
        del os.environ[COMPILE]
        with ExitStack() as block:
            steps["Fuse4Seg"] = training_step(our_trainer(content, dataset_json, name, device, estimator))
            for choice in form.choices:
                steps[f"Fuse4Seg, {choice}"] = training_step(chosen_trainer(
                    choice, content, dataset_json, name, device, estimator, block=block, backend=form.backend))
            rows += [{"configuration": name, **row} for row in compare(measure(steps, rounds=form.rounds), peer="nnU-Net")]
    return rows


def _seconds(rows: Sequence[Mapping[str, Any]], configuration: str) -> float:
    return next(row["seconds"] for row in rows if row["configuration"] == configuration and row["contender"] == "Fuse4Seg")


def _precisions(plans: Mapping[float, Any], form: Form, device: Any) -> list[dict[str, Any]]:
    """Losses of the same training in float32 and in both half types, and how far these are from it."""
    import torch

    content, dataset_json = next(iter(plans.values()))
    precisions = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if device.type == "cuda":
        precisions["float16"] = torch.float16
    rows = []
    for name in form.configurations:
        losses = {kind: _losses(content, dataset_json, name, device, precision, iterations=form.iterations)
                  for kind, precision in precisions.items()}
        rows.append({"configuration": name, "iterations": form.iterations, **losses,
                     **{f"{kind} - float32": loss - losses["float32"] for kind, loss in losses.items() if kind != "float32"}})
    return rows


def _losses(plans: dict[str, Any], dataset_json: dict[str, Any], configuration: str, device: Any,
            precision: Any, *, iterations: int) -> float:
    """Mean loss of the last fifth of so many iterations on one batch, by one seed."""
    from fuse4seg.plans import planned_recipe

    trainer = our_trainer(plans, dataset_json, configuration, device, planned_recipe(plans, "plans").bilevel.hypergradient,
                          precision=precision)
    act = training_step(trainer)
    reports = [act() for _ in range(iterations)]
    last = [report["loss"] for report in reports[-max(1, iterations // 5):]]
    return sum(last) / len(last)


# ------------------------------------------------------------------------------ a training, and its predictions

def _training(form: Form, device: Any, *, seconds: float) -> tuple[str, list[dict[str, Any]]]:
    """Dice after some minutes, by the plans of the smallest target, and the model's folder before it.

    Stock nnU-Net is trained hardly, for its speed alone.
    """
    from fuse4seg.files import read_json
    from fuse4seg.paths import RESULTS, data_root, dataset_name
    from fuse4seg.training.run import Training

    name, plans = form.configurations[0], plans_name(form.targets[0])
    epochs = max(1, round(form.minutes * 60 / (seconds * ITERATIONS)))
    iterations = ITERATIONS if form.minutes else 1
    changes = ("pretraining.epochs=0", f"training.epochs={epochs}", f"training.iterations={iterations}")
    begin = time.perf_counter()
    _call(*own_command("train")[1:], str(DATASET), name, "0", "-p", plans, "-device", device.type, "--set", *changes)
    spent = time.perf_counter() - begin
    _call("-m", "fuse4seg.cli.train_stock_nnunet", str(DATASET), name, "0", "-p", plans, "-device", device.type, "--epochs", "1",
          "--iterations", "1")
    model = Training(str(DATASET), name, 0, plans, changes=changes).folder_name
    summary = read_json(data_root(RESULTS) / dataset_name(DATASET) / model / "fold_0" / "validation" / "summary.json", ValueError)
    return model, [{"configuration": name, "epochs": epochs, "iterations": epochs * iterations, "minutes": spent / 60,
                    "dice": summary["foreground_mean"]["Dice"]}]


def _prediction(model: str, form: Form, device: Any) -> list[dict[str, Any]]:
    """Seconds of f4s_predict over nnUNetv2_predict's, on the unseen cases, each command in a process of its own."""
    from fuse4seg.comparison.stock_nnunet import STOCK_PLANS
    from fuse4seg.paths import RAW, RESULTS, data_root, dataset_name

    place, name = data_root(RESULTS) / dataset_name(DATASET), form.configurations[0]
    trainer, plans, _ = model.split("__")
    shared = ["-i", str(data_root(RAW) / dataset_name(DATASET) / "imagesTs"), "-f", "0", "-device", device.type]
    contenders = {
        "nnU-Net": command_of([*STOCK, *shared, "-m", str(place / f"nnUNetTrainer__{STOCK_PLANS}__{name}")]),
        "Fuse4Seg": command_of(own_command("predict", *shared, "-d", str(DATASET), "-c", name, "-p", plans, "-tr", trainer))}
    return compare(measure(contenders, rounds=max(1, form.rounds // 2), warm_up=1 if form.rounds > 1 else 0), peer="nnU-Net")


def _call(*words: str) -> None:
    """Run Python in a process of its own; what it says is shown where it fails."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{words}:\n{done.stdout}{done.stderr}")


def page_of(figures: Mapping[str, Any], *, device: str) -> str:
    """The figures as a page in Markdown."""
    form = "the small form, which shows that the script works and no more" if figures["small"] else "phantoms"
    parts = [f"# Figures of a GPU\n\nMeasured on: {device}, {figures['minutes']:.1f} minutes, {form}.\n"]
    for name in ("memory", "iterations", "precision", "training", "prediction"):
        rows = figures[name]
        table = format_table(list(rows[0]), [list(row.values()) for row in rows], decimals=3)
        parts.append(f"## {name.capitalize()}\n\n```text\n{table}\n```\n")
    parts.append(f"Allowance that the counted memory would need: {figures['allowance']:.3f}.\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
