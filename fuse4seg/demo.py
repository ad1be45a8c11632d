"""The whole way on phantoms: make them, plan, train both stages, predict heads the model has never seen, and score them."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from fuse4seg.datasets.dataset_json import read_dataset_json
from fuse4seg.datasets.phantom import write_phantom_dataset
from fuse4seg.errors import FaultyCasesError, UnwritableFolderError
from fuse4seg.evaluation.folders import Evaluation, evaluate_folders
from fuse4seg.files import make_writable_folder
from fuse4seg.inference.export_case import Wanted
from fuse4seg.inference.find_model import find_model
from fuse4seg.inference.model import load_model
from fuse4seg.inference.predict_folder import predict_folder
from fuse4seg.machine import choose_device
from fuse4seg.paths import RAW, data_root, set_roots
from fuse4seg.planning.fingerprint import extract_fingerprint
from fuse4seg.planning.options import PlanOptions
from fuse4seg.planning.planner import plan_experiment
from fuse4seg.planning.preprocess import preprocess
from fuse4seg.plans import PLANS_NAME
from fuse4seg.report.write_report import Wish, write_report
from fuse4seg.training.run import Training, train

log = logging.getLogger(__name__)

DATASET = 999
#: Says that a folder was made by the demo, which may then delete it.
MARKER = ".f4s_demo"


@dataclass(frozen=True)
class DemoSize:
    """How much the demo does; the defaults take minutes on two cores.

    Attributes:
        training_cases, test_cases: Phantoms of either kind.
        base_features: Width of the U-Net.
        batch: Largest batch.
        epochs, iterations: Of the training.
    """

    training_cases: int = 10
    test_cases: int = 3
    base_features: int = 16
    batch: int = 8
    epochs: int = 10
    iterations: int = 50


def run_demo(output: Path, *, size: DemoSize = DemoSize(), seed: int = 0, device: str | None = None,
             processes: int = 1) -> Evaluation:
    """Everything a user does with data of their own, on phantoms.

    Args:
        output: Gets data/ (the three roots) and predictions/ with report/index.html; replaced if an earlier demo made it.
        size: How much to do.
        seed: Of phantoms and training.
        device: "cuda", "cpu", "mps", or None for the best one here.
        processes: For planning and preprocessing.

    Returns:
        Scores of the unseen phantoms.

    Raises:
        UnwritableFolderError: ``output`` holds something else, or cannot be written.
    """
    _make_place(output)
    set_roots(output / "data")
    folder = write_phantom_dataset(data_root(RAW), dataset_id=DATASET, training_cases=size.training_cases,
                                   test_cases=size.test_cases, seed=seed)
    log.info("planning and preprocessing")
    extract_fingerprint(DATASET, processes=processes)
    # Not the default: the demo shows attention maps, too.
    changes = ("leader.cross_attention=true", f"follower.features={size.base_features}", f"patches.largest_batch={size.batch}",
               f"training.epochs={size.epochs}", f"training.iterations={size.iterations}")
    plan_experiment(DATASET, PlanOptions(changes=changes, gpu_memory_target=1.0, plans_name=PLANS_NAME))
    preprocess(DATASET, configurations=["2d"], processes=processes)
    log.info("training")
    train(Training(str(DATASET), "2d", 0, device=device), seed=seed)
    log.info("predicting heads that were not trained on")
    model = find_model(dataset=str(DATASET))
    loaded = load_model(model.folder, folds=model.folds, device=choose_device(device))
    predict_folder(loaded, folder / "imagesTs", output / "predictions", folds=model.folds,
                   wanted=Wanted(attention=True, panels=True))
    write_report(output / "predictions", wish=Wish(images=folder / "imagesTs", labels=folder / "labelsTs"))
    evaluation = evaluate_folders(output / "predictions", folder / "labelsTs", dataset_json=read_dataset_json(folder))
    if evaluation.faults:
        raise FaultyCasesError(evaluation.faults)
    return evaluation


def _make_place(output: Path) -> None:
    """An empty folder; an earlier demo's is emptied, anything else is left alone."""
    if output.exists() and not (output / MARKER).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise UnwritableFolderError(output, "it holds something that no demo made")
    shutil.rmtree(output, ignore_errors=True)
    make_writable_folder(output)
    (output / MARKER).touch()
