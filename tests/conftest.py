"""What tests share: a small phantom dataset, raw and ready to train on, and an environment that no test leaks into."""

from __future__ import annotations

import inspect
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from fuse4seg.networks.fuse_then_segment import FuseThenSegment

# nnU-Net reads these when it is imported.
os.environ["nnUNet_n_proc_DA"] = "1"
os.environ["nnUNet_def_n_proc"] = "2"

#: A U-Net of three stages as it stands in nnU-Net's plans.
FOLLOWER = {"network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {"n_stages": 3, "features_per_stage": [4, 8, 8], "kernel_sizes": [[3, 3]] * 3,
                            "strides": [[1, 1], [2, 2], [2, 2]], "n_conv_per_stage": [1, 1, 1],
                            "n_conv_per_stage_decoder": [1, 1], "conv_op": "torch.nn.modules.conv.Conv2d",
                            "conv_bias": True, "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
                            "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "nonlin": "torch.nn.LeakyReLU",
                            "nonlin_kwargs": {"inplace": True}},
            "_kw_requires_import": ["conv_op", "norm_op", "nonlin"]}
LEADER = {"network_class_name": "fuse4seg.leaders.gate.GateLeader", "_kw_requires_import": [],
          "arch_kwargs": {"detail_features": 4, "base_features": 8, "couplings": 1, "transformers": 1}}

ROOTS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
for name in ("F4S_ROOT", *ROOTS):  # what whoever runs the tests has there is theirs
    os.environ.pop(name, None)
#: What the phantom's plans say beside the usual recipe: a small network, and hardly any training.
HARDLY = ("leader.cross_attention=true", "follower.features=8", "patches.largest_batch=4", "pretraining.epochs=2",
          "training.epochs=2", "training.iterations=2")
PHANTOM_ID, PHANTOM_CASES, PHANTOM_SHAPE = 990, 5, (32, 48, 40)


def _differences(found: Any, wanted: Any, where: str = "") -> list[str]:
    if where.endswith("_timestamps']") or where == "['init_args']":
        return []
    import torch

    if isinstance(wanted, dict):
        names = [*wanted, *(found.keys() - wanted.keys())]
        return [line for name in names for line in _differences(found.get(name), wanted.get(name), f"{where}[{name!r}]")]
    if isinstance(wanted, (list, tuple)):
        if len(found) != len(wanted):
            return [f"{where} has {len(found)} entries, not {len(wanted)}"]
        return [line for index, pair in enumerate(zip(found, wanted, strict=True))
                for line in _differences(*pair, f"{where}[{index}]")]
    if isinstance(wanted, torch.Tensor):
        same = found.dtype == wanted.dtype and torch.equal(found, wanted)
    else:
        same = found == wanted or (found != found and wanted != wanted)
    return [] if same else [where]


@pytest.fixture(scope="session")
def differences() -> Callable[[Any, Any], list[str]]:
    """Function that says where two checkpoints differ, bit for bit; times of day, and whether it was a resume, may."""
    return _differences


class Child:
    """Work in a process of its own, forked so that it need not import everything again; its output goes to a file.

    Its background processes share its process group and are ended with the object.
    """

    def __init__(self, work: Callable[[], int], log: Path) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            self._work(work, log)

    def _work(self, work: Callable[[], int], log: Path) -> None:
        status = 99
        try:
            os.setsid()
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for descriptor in (1, 2):
                os.dup2(output, descriptor)
            sys.stdout = sys.stderr = os.fdopen(output, "w", buffering=1)
            # The threads of OpenMP did not come along; a process that uses more than one would wait for them for ever.
            import torch

            torch.set_num_threads(1)
            os.environ["OMP_NUM_THREADS"] = "1"  # which commands heed
            status = work()
        except BaseException:  # noqa: BLE001 (the process ends here, whatever it was)
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def ended(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def wait(self, seconds: float) -> int | None:
        """Exit status; None if it still runs after so many seconds."""
        until = time.monotonic() + seconds
        while (status := self.ended()) is None and time.monotonic() < until:
            time.sleep(0.005)
        return status

    def end_group(self) -> None:
        """End what it left running."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


@pytest.fixture(scope="session")
def start_process() -> Callable[[Callable[[], int], Path], Child]:
    """Function that starts work in a process of its own; give it the work and a file for its output."""
    import fuse4seg.training.run  # noqa: F401 (what every process would import)

    return Child


class FixturesRestoreEnvironment:
    """Keeps the variables that commands set in fixtures of several tests from the tests after these.

    Fixtures that yield undo for themselves what they set.
    """

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        if fixturedef.scope == "function" or inspect.isgeneratorfunction(fixturedef.func):
            return (yield)
        with mock.patch.dict(os.environ):
            return (yield)


def pytest_configure(config: pytest.Config) -> None:
    # A plugin of its own: pytest asks no conftest of a subfolder about fixtures of the session.
    config.pluginmanager.register(FixturesRestoreEnvironment())


@pytest.fixture(autouse=True)
def environment_is_restored() -> Iterator[None]:
    """Commands set nnU-Net's variables in their process; here the next test is in the same one.

    A test that writes into the roots of all would be felt by another, much later.
    """
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
    results = before.get("nnUNet_results")
    assert not (results and any(Path(results).iterdir())), "this test wrote a model where every test looks for none"


@pytest.fixture
def tiny_follower() -> dict[str, Any]:
    """A U-Net of three stages as it stands in nnU-Net's plans."""
    return deepcopy(FOLLOWER)


@pytest.fixture(scope="session")
def random_images() -> Callable[..., Tensor]:
    """Function of a shape and a seed that gives uniform noise in [0, 1]."""
    import torch

    def make(*shape: int, seed: int = 0) -> Tensor:
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., FuseThenSegment]:
    """Function that gives a 2D model of two modalities and two classes, the same each time."""
    import torch
    from torch import nn

    from fuse4seg.networks.fuse_then_segment import FuseThenSegment

    def make(*, extra: int = 0, deep_supervision: bool = False, colours: int = 3) -> FuseThenSegment:
        leader = {**LEADER, "arch_kwargs": {**LEADER["arch_kwargs"], "colours": colours}}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = FuseThenSegment(2 + extra, 2, conv_op=nn.Conv2d, strides=FOLLOWER["arch_kwargs"]["strides"],
                                    windows=[[-2.0, 2.0]] * 2, leader=leader, follower=FOLLOWER,
                                    deep_supervision=deep_supervision)
            return model.apply(model.initialize)

    return make


@pytest.fixture(scope="session")
def phantom_roots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of the three data roots, set in the environment, with a raw phantom dataset; leave it as it is."""
    from fuse4seg.datasets.phantom import write_phantom_dataset

    root = tmp_path_factory.mktemp("roots")
    with pytest.MonkeyPatch.context() as patch:
        for variable in ROOTS:
            (root / variable).mkdir()
            patch.setenv(variable, str(root / variable))
        write_phantom_dataset(root / "nnUNet_raw", dataset_id=PHANTOM_ID, training_cases=PHANTOM_CASES, test_cases=1,
                              seed=0, shape=PHANTOM_SHAPE)
        yield root


@pytest.fixture(scope="session")
def planned_phantom(phantom_roots: Path) -> Path:
    """The same roots, fingerprinted, planned for a small machine, and preprocessed for 2d and 3d_fullres."""
    from fuse4seg.planning.fingerprint import Fuse4SegFingerprintExtractor
    from fuse4seg.planning.options import PlanOptions
    from fuse4seg.planning.planner import plan_experiment
    from fuse4seg.planning.preprocess import preprocess

    extractor = Fuse4SegFingerprintExtractor(PHANTOM_ID, 1)
    # nnU-Net's 10^8 take seconds, however small the dataset.
    extractor.num_foreground_voxels_for_intensitystats = 1e5
    extractor.run(overwrite_existing=True)
    plan_experiment(PHANTOM_ID, PlanOptions(changes=HARDLY, gpu_memory_target=0.1, plans_name="Fuse4SegPlans"))
    preprocess(PHANTOM_ID, configurations=["2d", "3d_fullres"], processes=1)
    return phantom_roots


@pytest.fixture(scope="session")
def training_flags() -> list[str]:
    """What f4s_train was called with for ``trained_phantom``, without --root."""
    return [str(PHANTOM_ID), "2d", "0", "-device", "cpu"]


@pytest.fixture(scope="session")
def trained_phantom(planned_phantom: Path, training_flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the planned roots with fold 0 of 2d trained by the command, hardly; give it to commands as --root."""
    from fuse4seg.cli.train import main

    root = tmp_path_factory.mktemp("trained") / "roots"
    shutil.copytree(planned_phantom, root)
    assert main([*training_flags, "--root", str(root)]) == 0
    return root


@pytest.fixture(scope="session")
def trained_model(trained_phantom: Path) -> Path:
    """The model folder of ``trained_phantom``; its one fold is fold_0."""
    return trained_phantom / "nnUNet_results" / "Dataset990_Phantom" / "Fuse4SegTrainer__Fuse4SegPlans__2d"


@pytest.fixture(scope="session")
def untrained_phantom(planned_phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the planned roots with a model of seeded random weights, as f4s_train would leave one of 2d, fold 0."""
    from fuse4seg.files import read_json

    root = tmp_path_factory.mktemp("untrained") / "roots"
    shutil.copytree(planned_phantom, root)
    plans = read_json(root / "nnUNet_preprocessed" / "Dataset990_Phantom" / "Fuse4SegPlans.json", ValueError)
    _write_untrained(root, plans, "2d")
    return root


@pytest.fixture(scope="session")
def untrained_cascade(planned_phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the planned roots with seeded random weights of both stages of a cascade, folds 0 and 1; leave it as it is.

    Both stages resample the phantom; one window of the second holds all of it.
    """
    from fuse4seg.files import read_json

    root = tmp_path_factory.mktemp("cascade") / "roots"
    shutil.copytree(planned_phantom, root)
    plans = read_json(root / "nnUNet_preprocessed" / "Dataset990_Phantom" / "Fuse4SegPlans.json", ValueError)
    full = plans["configurations"]["3d_fullres"]
    plans["configurations"]["3d_lowres"] = {**deepcopy(full), "spacing": [2.0, 2.0, 2.0], "patch_size": [16, 24, 16],
                                            "data_identifier": "Fuse4SegPlans_3d_lowres", "next_stage": "3d_cascade_fullres"}
    plans["configurations"]["3d_cascade_fullres"] = {**deepcopy(full), "spacing": [1.25, 1.2, 1.3], "patch_size": [32, 40, 32],
                                                     "previous_stage": "3d_lowres"}
    for configuration in ("3d_lowres", "3d_cascade_fullres"):
        _write_untrained(root, plans, configuration, folds=(0, 1))
    return root


def _write_untrained(root: Path, plans: dict[str, Any], configuration: str, *, folds: tuple[int, ...] = (0,),
                     dataset_json: dict[str, Any] | None = None, fingerprint: Path | None = None) -> Path:
    """A model of seeded random weights in the results of ``root``, which holds the preprocessed phantom; returns its folder."""
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from fuse4seg.checkpoint import save_checkpoint
    from fuse4seg.files import read_json, write_json

    preprocessed = root / "nnUNet_preprocessed" / "Dataset990_Phantom"
    model = root / "nnUNet_results" / "Dataset990_Phantom" / f"Fuse4SegTrainer__Fuse4SegPlans__{configuration}"
    model.mkdir(parents=True)
    dataset_json, manager = dataset_json or read_json(preprocessed / "dataset.json", ValueError), PlansManager(plans)
    for name, content in (("plans.json", plans), ("dataset.json", dataset_json)):
        write_json(content, model / name)
    shutil.copy(fingerprint or preprocessed / "dataset_fingerprint.json", model)
    planned = manager.get_configuration(configuration)
    architecture = planned.configuration["architecture"]
    for fold in folds:
        with torch.random.fork_rng():
            torch.manual_seed(fold)
            network = get_network_from_plans(architecture["network_class_name"], architecture["arch_kwargs"],
                                             architecture["_kw_requires_import"],
                                             determine_num_input_channels(manager, planned, dataset_json),
                                             len(dataset_json["labels"]), allow_init=True, deep_supervision=False)
        (model / f"fold_{fold}").mkdir()
        save_checkpoint({"network_weights": network.state_dict(), "trainer_name": "Fuse4SegTrainer",
                         "init_args": {"plans": plans, "configuration": configuration, "fold": fold,
                                       "dataset_json": dataset_json},
                         "inference_allowed_mirroring_axes": tuple(range(len(planned.patch_size))),
                         "recipe": plans["fuse4seg"]["recipe"], "seed": 0, "current_epoch": 1},
                        model / f"fold_{fold}" / "checkpoint_final.pth")
    return model


@pytest.fixture(scope="session")
def make_untrained(planned_phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Function that gives roots with nothing but one model of seeded random weights, planned as the phantoms are."""
    from fuse4seg.files import read_json

    known: dict[tuple[object, ...], Path] = {}
    preprocessed = planned_phantom / "nnUNet_preprocessed" / "Dataset990_Phantom"

    def make(configuration: str, *, colours: int = 3, folds: tuple[int, ...] = (0,), ending: str = ".nii.gz",
             reader: str = "SimpleITKIO") -> Path:
        key = (configuration, colours, folds, ending, reader)
        if key not in known:
            known[key] = tmp_path_factory.mktemp("untrained") / "roots"
            plans = read_json(preprocessed / "Fuse4SegPlans.json", ValueError)
            plans["image_reader_writer"] = reader
            plans["configurations"][configuration]["architecture"]["arch_kwargs"]["leader"]["arch_kwargs"]["colours"] = colours
            dataset_json = {**read_json(preprocessed / "dataset.json", ValueError), "file_ending": ending}
            _write_untrained(known[key], plans, configuration, folds=folds, dataset_json=dataset_json,
                             fingerprint=preprocessed / "dataset_fingerprint.json")
        return known[key]

    return make


@pytest.fixture(scope="session")
def untrained_model(untrained_phantom: Path) -> Path:
    """The model folder of ``untrained_phantom``; its one fold is fold_0."""
    return untrained_phantom / "nnUNet_results" / "Dataset990_Phantom" / "Fuse4SegTrainer__Fuse4SegPlans__2d"


@pytest.fixture(scope="session")
def exported_model(untrained_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archive of ``untrained_model``."""
    from fuse4seg.inference.find_model import model_in
    from fuse4seg.sharing.export_model import export_models

    path = tmp_path_factory.mktemp("exported") / "model.zip"
    export_models([model_in(untrained_model)], path)
    return path


@pytest.fixture
def own_results(trained_phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results root of this test alone, beside the raw and preprocessed data of ``trained_phantom``."""
    for variable in ROOTS[:2]:
        monkeypatch.setenv(variable, str(trained_phantom / variable))
    monkeypatch.setenv(ROOTS[2], str(tmp_path / ROOTS[2]))
    return tmp_path / ROOTS[2]


@pytest.fixture(scope="session")
def brats_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cases as BraTS 2021 names them, with brain in three of four slices, label 4, and a spacing of their own."""
    import numpy as np
    import SimpleITK as sitk

    shape = (4, 44, 48)
    folder, random = tmp_path_factory.mktemp("release"), np.random.default_rng(0)
    for case in ("BraTS2021_1", "BraTS2021_2"):
        (folder / case).mkdir()
        brain = np.zeros(shape, bool)
        brain[1:, 2:-2, 3:-3] = True
        for kind in ("t1", "t1ce", "t2", "flair", "seg"):
            voxels = np.where(brain, random.integers(1, 900, shape), 0).astype(np.int16)
            image = sitk.GetImageFromArray(np.where(voxels > 800, 4, 0).astype(np.uint8) if kind == "seg" else voxels)
            image.SetSpacing((1, 1, 2))
            sitk.WriteImage(image, str(folder / case / f"{case}_{kind}.nii.gz"))
    return folder
