"""What users get wrong: every command answers with one line that names the file or the flag, and leaves everything as it was."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as Picture

from fuse4seg.cli.command import FAILED

RAW, PRE = "roots/nnUNet_raw/Dataset990_Phantom", "roots/nnUNet_preprocessed/Dataset990_Phantom"
MODEL = "roots/nnUNet_results/Dataset990_Phantom/Fuse4SegTrainer__Fuse4SegPlans__2d"
CHECKPOINT, DATASET, PLANS = f"{MODEL}/fold_0/checkpoint_final.pth", f"{RAW}/dataset.json", f"{PRE}/Fuse4SegPlans.json"
FINGERPRINT, IMAGE = f"{PRE}/dataset_fingerprint.json", f"{RAW}/imagesTr/phantom_001_0002.nii.gz"
LABEL, UNSEEN = f"{RAW}/labelsTr/phantom_001.nii.gz", f"{RAW}/imagesTs/phantom_005_0001.nii.gz"
#: Longest that an answer may take.
SECONDS = 60
#: What argparse exits with.
UNPARSED = 2
Break = Callable[[Path], object]


class Mistake(NamedTuple):
    """A mistake: what is broken, in which command, and what the answer has to name.

    Attributes:
        command: Module in fuse4seg.cli.
        flags: Words, with the paths of this module's folders in braces.
        names: What the answer names, with the same braces.
        broken: Makes the input faulty; None where the flags are.
        status: The command's.
        leaves: Names of whole files that it may leave: what was done before the mistake could be known.
    """

    command: str
    flags: str
    names: str
    broken: Break | None = None
    status: int = FAILED
    leaves: str = "nothing"


def text(file: str, content: str) -> Break:
    return lambda place: (place / file).write_text(content)


def cut(file: str, share: float = 0.5) -> Break:
    return lambda place: (place / file).write_bytes((place / file).read_bytes()[:int(share * (place / file).stat().st_size)])


def gone(file: str) -> Break:
    return lambda place: shutil.rmtree(place / file) if (place / file).is_dir() else (place / file).unlink()


def folder(name: str) -> Break:
    return lambda place: (place / name).mkdir(parents=True)


def copied(source: str, target: str) -> Break:
    return lambda place: shutil.copy(place / source, place / target)


def entry(file: str, way: str, value: Any) -> Break:
    """An entry of a JSON file set, by its path in there."""

    def change(place: Path) -> None:
        content = json.loads((place / file).read_text())
        inner, (*steps, last) = content, way.split("/")
        for step in steps:
            inner = inner[step]
        inner[last] = value
        (place / file).write_text(json.dumps(content))

    return change


def without(file: str, way: str) -> Break:
    def change(place: Path) -> None:
        content = json.loads((place / file).read_text())
        inner, (*steps, last) = content, way.split("/")
        for step in steps:
            inner = inner[step]
        del inner[last]
        (place / file).write_text(json.dumps(content))

    return change


def voxels(file: str, change: Callable[[np.ndarray], np.ndarray]) -> Break:
    def rewrite(place: Path) -> None:
        image = nibabel.load(place / file)
        data = change(np.asanyarray(image.dataobj))
        nibabel.save(nibabel.Nifti1Image(data, image.affine), place / file)

    return rewrite


def with_nan(data: np.ndarray) -> np.ndarray:
    data = data.astype(np.float32)
    data[1, 2, 3] = np.nan
    return data


def moved(file: str) -> Break:
    def shift(place: Path) -> None:
        image = sitk.ReadImage(str(place / file))
        image.SetOrigin([origin + 5 for origin in image.GetOrigin()])
        sitk.WriteImage(image, str(place / file))

    return shift


def picture(file: str, mode: str, size: tuple[int, int] = (32, 32)) -> Break:
    return lambda place: Picture.new(mode, size).save(place / file)


def every(*broken: Break) -> Break:
    return lambda place: [each(place) for each in broken]


def no_foreground(place: Path) -> None:
    for path in (place / RAW / "labelsTr").iterdir():
        voxels(str(path.relative_to(place)), np.zeros_like)(place)


NESTED = "[" * 100_000
NP = "-np 1"
TRAIN = "990 2d 0 -device cpu"
PREDICT, PICTURES = "-i {images} -o {out} -device cpu", "-i {ct} {mri} -o {out}"
SCORE = "-i {ct} {mri} -f {fused} -o {out}.json -np 1"
BRATS = "-i {brats} -o {out} -m {model} -device cpu -np 1"

MISTAKES: dict[str, Mistake] = {
    # ------------------------------------------------------------------ convert_dataset
    "convert: no such folder": Mistake("convert_dataset", f"brats {{place}}/nowhere 7 {NP}", "nowhere"),
    "convert: no BraTS": Mistake("convert_dataset", f"brats {{ct}} 7 {NP}", "{ct}"),
    "convert: no pairs": Mistake("convert_dataset", f"harvard {{ct}} 7 {NP}", "{ct}"),
    "convert: no task": Mistake("convert_dataset", f"msd {{ct}} 7 {NP}", "dataset.json"),
    "convert: task is no JSON": Mistake("convert_dataset", f"msd {{ct}} 7 {NP}", "ct/dataset.json", text("ct/dataset.json", "{")),
    "convert: task nested": Mistake("convert_dataset", f"msd {{ct}} 7 {NP}", "ct/dataset.json", text("ct/dataset.json", NESTED)),
    "convert: task without cases": Mistake("convert_dataset", f"msd {{ct}} 7 {NP}", "ct/dataset.json", text(
        "ct/dataset.json", '{"modality": {"0": "a"}, "labels": {"0": "b"}, "training": []}')),
    "convert: task names no image": Mistake("convert_dataset", f"msd {{ct}} 7 {NP}", "ct/x.nii.gz", text(
        "ct/dataset.json", '{"modality": {"0": "a"}, "labels": {"0": "b"}, "training": [{"image": "x.nii.gz", "label": "y"}]}')),
    "convert: task's labels are no numbers": Mistake("convert_dataset", f"msd {{ct}} 7 {NP}", "ct/dataset.json", text(
        "ct/dataset.json", '{"modality": ["a"], "labels": ["b"], "training": [{"image": "x", "label": "y"}]}')),
    "convert: a modality missing": Mistake("convert_dataset", f"brats {{brats}} 7 {NP}", "T2", gone("brats/a/a_t2.nii.gz")),
    "convert: an image truncated": Mistake("convert_dataset", f"brats {{brats}} 7 {NP}", "brats/a/a_t2.nii.gz", cut(
        "brats/a/a_t2.nii.gz")),
    "convert: id taken": Mistake("convert_dataset", f"brats {{brats}} 990 {NP} --name Phantom", "Dataset990_Phantom"),
    "convert: id below 1": Mistake("convert_dataset", f"brats {{brats}} 0 {NP}", "0"),
    "convert: name with a path": Mistake("convert_dataset", f"brats {{brats}} 7 {NP} --name ../x", "../x"),
    "convert: no process": Mistake("convert_dataset", "brats {brats} 7 -np 0", "-np"),
    "convert: unknown format": Mistake("convert_dataset", "nii {brats} 7", "nii", status=UNPARSED),
    # ------------------------------------------------------------------ extract_fingerprint
    "fingerprint: no such dataset": Mistake("extract_fingerprint", f"-d 991 {NP}", "991"),
    "fingerprint: two of the id": Mistake("extract_fingerprint", f"-d 990 {NP}", "Dataset990_Other", folder(
        "roots/nnUNet_raw/Dataset990_Other")),
    "fingerprint: a pattern for a dataset": Mistake("extract_fingerprint", f"-d Dataset* {NP}", "Dataset*"),
    "fingerprint: no dataset.json": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", "dataset.json", gone(DATASET)),
    "fingerprint: dataset.json is a folder": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", "dataset.json", every(
        gone(DATASET), folder(DATASET))),
    "fingerprint: dataset.json is no JSON": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", "dataset.json",
                                                    text(DATASET, "{'a'")),
    "fingerprint: dataset.json is a list": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", "dataset.json",
                                                   text(DATASET, "[]")),
    "fingerprint: dataset.json nested": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", "dataset.json",
                                                text(DATASET, NESTED)),
    "fingerprint: channels not numbered": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", "channel_names", entry(
        DATASET, "channel_names", {"a": "T1"})),
    "fingerprint: channels in a list": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", "channel_names", entry(
        DATASET, "channel_names", ["T1"])),
    "fingerprint: labels with a gap": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", "labels", entry(
        DATASET, "labels", {"background": 0, "tumour": 2})),
    "fingerprint: labels that are words": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", "labels", entry(
        DATASET, "labels", {"background": "zero"})),
    "fingerprint: unknown ending": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", ".xyz", entry(
        DATASET, "file_ending", ".xyz")),
    "fingerprint: ending is a number": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", "file_ending", entry(
        DATASET, "file_ending", 7)),
    "fingerprint: wrong count": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", "numTraining", entry(
        DATASET, "numTraining", 3)),
    "fingerprint: unknown normalisation": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", "normalization", entry(
        DATASET, "normalization", {"0": "x"})),
    "fingerprint: normalisation in lists": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", "normalization", entry(
        DATASET, "normalization", {"0": ["zscore"]})),
    "fingerprint: image truncated": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", IMAGE, cut(IMAGE)),
    "fingerprint: image empty": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", IMAGE, cut(IMAGE, 0)),
    "fingerprint: image is text": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", IMAGE, text(IMAGE, "no image")),
    "fingerprint: NaN": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", "phantom_001", voxels(IMAGE, with_nan)),
    "fingerprint: constant image": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", "phantom_001", voxels(
        IMAGE, np.zeros_like)),
    "fingerprint: other grid": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", "origin", moved(IMAGE)),
    "fingerprint: other shape": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", "shape", voxels(
        IMAGE, lambda data: data[:-1])),
    "fingerprint: channel missing": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", IMAGE, gone(IMAGE)),
    "fingerprint: channel too many": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", "phantom_001_0007", copied(
        IMAGE, IMAGE.replace("0002", "0007"))),
    "fingerprint: label missing": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", LABEL, gone(LABEL)),
    "fingerprint: undeclared label": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", "phantom_001", voxels(
        LABEL, lambda data: data + np.uint8(9))),
    "fingerprint: no foreground": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", "Dataset990_Phantom", no_foreground),
    "fingerprint: no images": Mistake("extract_fingerprint", f"-d 990 --clean {NP}", "imagesTr", gone(f"{RAW}/imagesTr")),
    # ------------------------------------------------------------------ plan_experiment, preprocess, plan_and_preprocess
    "plan: no fingerprint": Mistake("plan_experiment", "-d 990", FINGERPRINT, gone(FINGERPRINT)),
    "plan: fingerprint is no JSON": Mistake("plan_experiment", "-d 990", FINGERPRINT, cut(FINGERPRINT)),
    "plan: fingerprint nested": Mistake("plan_experiment", "-d 990", FINGERPRINT, text(FINGERPRINT, NESTED)),
    "plan: fingerprint without windows": Mistake("plan_experiment", "-d 990", FINGERPRINT, without(
        FINGERPRINT, "intensity_windows_per_channel")),
    "plan: window without an end": Mistake("plan_experiment", "-d 990", FINGERPRINT, without(
        FINGERPRINT, "intensity_windows_per_channel/0/high")),
    "plan: fingerprint without spacings": Mistake("plan_experiment", "-d 990", FINGERPRINT, without(FINGERPRINT, "spacings")),
    "plan: spacings that are words": Mistake("plan_experiment", "-d 990", FINGERPRINT, entry(FINGERPRINT, "spacings", "x")),
    "plan: shapes of nothing": Mistake("plan_experiment", "-d 990", FINGERPRINT, entry(FINGERPRINT, "shapes_after_crop", [])),
    "plan: volumes below 0": Mistake("plan_experiment", "-d 990", FINGERPRINT, entry(FINGERPRINT, "label_volumes", {"a": [-1]})),
    "plan: no memory": Mistake("plan_experiment", "-d 990 -gpu_memory_target 0", "-gpu_memory_target"),
    "plan: memory that is no number": Mistake("plan_experiment", "-d 990 -gpu_memory_target nan", "-gpu_memory_target"),
    "plan: memory that is a word": Mistake("plan_experiment", "-d 990 -gpu_memory_target much", "much", status=UNPARSED),
    "plan: too little memory": Mistake("plan_experiment", "-d 990 -gpu_memory_target 0.001", "-gpu_memory_target"),
    "plan: unknown follower": Mistake("plan_experiment", "-d 990 --set follower.network=vnet", "vnet"),
    "plan: unknown reference": Mistake("plan_experiment", "-d 990 --set leader.cross_attention=true leader.reference=PET", "PET"),
    "plan: reference that asks nobody": Mistake("plan_experiment", "-d 990 --set leader.reference=T1",
                                                "leader.cross_attention=true"),
    "plan: reference of dataset.json unknown": Mistake("plan_experiment", "-d 990", "PET", entry(
        DATASET, "reference_modality", "PET")),
    "plan: no features": Mistake("plan_experiment", "-d 990 --set follower.features=0", "follower.features"),
    "plan: spacing of zero": Mistake("plan_experiment", "-d 990 -overwrite_target_spacing 0 1 1", "-overwrite_target_spacing"),
    "plan: name with a path": Mistake("plan_experiment", "-d 990 -p ../plans", "../plans"),
    "plan: name of others' plans": Mistake("plan_experiment", "-d 990 -gpu_memory_target 0.1 -p Fuse4SegPlans", PLANS,
                                           without(PLANS, "fuse4seg")),
    "plan and preprocess: no process": Mistake("plan_and_preprocess", "-d 990 -np -1", "-np"),
    "plan and preprocess: unknown configuration": Mistake(
        "plan_and_preprocess", f"-d 990 -c 4d {NP} -gpu_memory_target 0.1 -p Fuse4SegPlans --set follower.features=8", "4d",
        leaves="Fuse4SegPlans.json"),
    "preprocess: no plans": Mistake("preprocess", f"-d 990 {NP}", PLANS, gone(PLANS)),
    "preprocess: plans are no JSON": Mistake("preprocess", f"-d 990 {NP}", PLANS, cut(PLANS)),
    "preprocess: plans are a list": Mistake("preprocess", f"-d 990 {NP}", PLANS, text(PLANS, "[]")),
    "preprocess: plans without content": Mistake("preprocess", f"-d 990 -c 2d {NP}", PLANS, text(
        PLANS, '{"configurations": {"2d": {}}}')),
    "preprocess: plans of numbers": Mistake("preprocess", f"-d 990 -c 2d {NP}", PLANS, text(PLANS, '{"configurations": 7}')),
    "preprocess: unknown preprocessor": Mistake("preprocess", f"-d 990 -c 2d {NP}", PLANS, entry(
        PLANS, "configurations/2d/preprocessor_name", "Other")),
    "preprocess: unknown configuration": Mistake("preprocess", f"-d 990 -c 5d {NP}", "5d"),
    "preprocess: channel missing": Mistake("preprocess", f"-d 990 -c 2d {NP}", IMAGE, gone(IMAGE)),
    # ------------------------------------------------------------------ pretrain, train
    "pretrain: nothing to do": Mistake("pretrain", "990 2d 1 --set pretraining.epochs=0 -device cpu", "pretraining.epochs"),
    "pretrain: unknown loss": Mistake("pretrain", "990 2d 1 --set pretraining.beauty=1 -device cpu", "beauty"),
    "pretrain: not preprocessed": Mistake("pretrain", "990 2d 1 -device cpu", "nnUNetPlans_2d", gone(f"{PRE}/nnUNetPlans_2d")),
    "train: no such fold": Mistake("train", TRAIN.replace(" 0 ", " 7 "), "fold 7"),
    "train: fold is a word": Mistake("train", TRAIN.replace(" 0 ", " one "), "one", status=UNPARSED),
    "train: unknown configuration": Mistake("train", TRAIN.replace("2d", "2e"), "2e"),
    "train: unknown trainer": Mistake("train", TRAIN + " -tr Other", "Other"),
    "train: other plans": Mistake("train", TRAIN + " -p ../x", "../x"),
    "train: plans are no JSON": Mistake("train", TRAIN, PLANS, cut(PLANS)),
    "train: plans of another network": Mistake("train", TRAIN, "Fuse4SegPlans", entry(
        PLANS, "configurations/2d/architecture/network_class_name", "torch.nn.Linear")),
    "train: splits are no JSON": Mistake("train", TRAIN.replace(" 0 ", " 1 "), "splits_final.json",
                                         text(f"{PRE}/splits_final.json", "[")),
    "train: splits are words": Mistake("train", TRAIN.replace(" 0 ", " 1 "), "splits_final.json",
                                       text(f"{PRE}/splits_final.json", '["a", "b"]')),
    "train: splits of unknown cases": Mistake("train", TRAIN.replace(" 0 ", " 0 "), "splits_final.json", every(
        text(f"{PRE}/splits_final.json", '[{"train": ["nobody"], "val": ["phantom_000"]}]'), gone(CHECKPOINT))),
    "train: dataset.json is no JSON": Mistake("train", TRAIN.replace(" 0 ", " 1 "), f"{PRE}/dataset.json",
                                              cut(f"{PRE}/dataset.json")),
    "train: no epochs": Mistake("train", TRAIN.replace(" 0 ", " 1 ") + " --set training.epochs=0", "training.epochs"),
    "train: negative seed": Mistake("train", TRAIN.replace(" 0 ", " 1 ") + " --seed -1", "--seed"),
    "train: unknown estimator": Mistake("train", TRAIN.replace(" 0 ", " 1 ") + " --set bilevel.hypergradient=magic", "magic"),
    "train: unknown loss": Mistake("train", TRAIN.replace(" 0 ", " 1 ") + " --set losses.beauty=1", "beauty"),
    "train: dropout above 1": Mistake("train", TRAIN.replace(" 0 ", " 1 ") + " --set training.modality_dropout=2",
                                       "training.modality_dropout"),
    "train: what planning decides": Mistake("train", TRAIN.replace(" 0 ", " 1 ") + " --set leader.fused_image=grey",
                                            "f4s_plan_experiment --set leader.fused_image=grey"),
    "train: plans without a recipe": Mistake("train", TRAIN, PLANS, entry(PLANS, "fuse4seg", {})),
    "train: plans with a recipe of another version": Mistake("train", TRAIN, PLANS, entry(PLANS, "fuse4seg/recipe/version", 0)),
    "plan: unknown recipe": Mistake("plan_experiment", "-d 990 --recipe best", "best"),
    "plan: recipe that is no file": Mistake("plan_experiment", "-d 990 --recipe {place}/nowhere.toml", "nowhere.toml"),
    "plan: recipe that is no TOML": Mistake("plan_experiment", "-d 990 --recipe {place}/a.toml", "a.toml", text("a.toml", "[")),
    "train: over a training": Mistake("train", TRAIN, "fold_0"),
    "train: nothing to validate": Mistake("train", TRAIN.replace(" 0 ", " 1 ") + " --val", "checkpoint_final.pth"),
    "train: damaged checkpoint": Mistake("train", "990 2d 0 -device cpu --c", CHECKPOINT, cut(CHECKPOINT)),
    "train: checkpoint that only predicts": Mistake("train", "990 2d 0 -device cpu --c", CHECKPOINT, leaves="training_log"),
    "train: resume and validate": Mistake("train", TRAIN + " --c --val", "--val", status=UNPARSED),
    # ------------------------------------------------------------------ predict
    "predict: sources for fused images": Mistake("predict", PREDICT + " --from_fused", "phantom_005_0000.nii.gz", every(
        *(gone(f"{RAW}/imagesTs/phantom_005_000{number}.nii.gz") for number in (1, 2, 3)))),
    "predict: fused images of no folder": Mistake("predict", "-i {place}/nowhere -o {out} -device cpu --from_fused", "nowhere"),
    "predict: fused images and panels": Mistake("predict", PREDICT + " --from_fused --save_panels", "--save_panels"),
    "predict: fused images over themselves": Mistake("predict", "-i {images} -o {images} -device cpu --from_fused", "-o"),
    "predict: no such model": Mistake("predict", PREDICT + " -c 3d_lowres", "-c"),
    "predict: no such fold": Mistake("predict", PREDICT + " -f 3", "-f"),
    "predict: no folder": Mistake("predict", "-i {place}/nowhere -o {out} -device cpu", "nowhere"),
    "predict: no images": Mistake("predict", "-i {ct} -o {out} -device cpu", "{ct}"),
    "predict: channel missing": Mistake("predict", PREDICT, UNSEEN, gone(UNSEEN)),
    "predict: image truncated": Mistake("predict", PREDICT, "phantom_005_0001", cut(UNSEEN)),
    "predict: NaN": Mistake("predict", PREDICT, "phantom_005", voxels(UNSEEN, with_nan)),
    "predict: other grid": Mistake("predict", PREDICT, "phantom_005", moved(UNSEEN)),
    "predict: plans are no JSON": Mistake("predict", PREDICT, f"{MODEL}/plans.json", text(
        f"{MODEL}/plans.json", "{FuseThenSegment")),
    "predict: plans lack the configuration": Mistake("predict", PREDICT, CHECKPOINT, without(
        f"{MODEL}/plans.json", "configurations/2d")),
    "predict: plans of another network": Mistake("predict", PREDICT, CHECKPOINT, entry(
        f"{MODEL}/plans.json", "configurations/2d/architecture/arch_kwargs/fusion", {"detail_features": 4})),
    "predict: dataset.json without channels": Mistake("predict", PREDICT, "channel_names", without(
        f"{MODEL}/dataset.json", "channel_names")),
    "predict: dataset.json of other channels": Mistake("predict", PREDICT, f"{MODEL}/plans.json", entry(
        f"{MODEL}/dataset.json", "channel_names", {"0": "T1"})),
    "predict: dataset.json of other labels": Mistake("predict", PREDICT, CHECKPOINT, entry(
        f"{MODEL}/dataset.json", "labels", {"background": 0, "tumour": 1})),
    "predict: checkpoint truncated": Mistake("predict", PREDICT, CHECKPOINT, cut(CHECKPOINT)),
    "predict: checkpoint is text": Mistake("predict", PREDICT, CHECKPOINT, text(CHECKPOINT, "weights")),
    "predict: step of nothing": Mistake("predict", PREDICT + " -step_size 0", "-step_size"),
    "predict: no such part": Mistake("predict", PREDICT + " -part_id 5", "-part_id"),
    "predict: unknown precision": Mistake("predict", PREDICT + " --precision int4", "int4"),
    "predict: output is a file": Mistake("predict", PREDICT, "out", text("out", "")),
    "predict: damaged record": Mistake("predict", PREDICT + " --continue_prediction", "out/run.json", every(
        folder("out"), text("out/run.json", "{"))),
    "predict: record of something else": Mistake("predict", PREDICT + " --continue_prediction", "out/run.json", every(
        folder("out"), text("out/run.json", '{"made_by": {}, "cases": {}}'))),
    "predict: results of nobody": Mistake("predict", PREDICT, "nnUNet_results", gone("roots/nnUNet_results")),
    "predict: damaged post-processing": Mistake("predict", PREDICT, f"{MODEL}/postprocessing.json", text(
        f"{MODEL}/postprocessing.json", "{")),
    "predict: post-processing of other labels": Mistake("predict", PREDICT, f"{MODEL}/postprocessing.json", text(
        f"{MODEL}/postprocessing.json",
        '{"alone": {"rules": [{"class": "a", "labels": [9], "rule": "fill_holes", "value": null}]}}')),
    "predict: ensemble of one": Mistake("predict", PREDICT + " -c 2d 2d", "-c"),
    # ------------------------------------------------------------------ find_best_configuration, ensemble, info
    "find: not validated": Mistake("find_best_configuration", "990", "fold 0"),
    "find: not trained": Mistake("find_best_configuration", "990 -f 0 3", "fold 3"),
    "find: no such configuration": Mistake("find_best_configuration", "990 -c 9d", "-c 9d"),
    "find: no such dataset": Mistake("find_best_configuration", "991", "991"),
    "find: damaged summary": Mistake("find_best_configuration", "990", "summary.json", every(
        folder(f"{MODEL}/fold_0/validation"), text(f"{MODEL}/fold_0/validation/summary.json", "{"))),
    "ensemble: one folder": Mistake("ensemble", "-i {ct} -o {out}", "-i"),
    "ensemble: no folder": Mistake("ensemble", "-i {place}/nowhere {ct} -o {out}", "nowhere"),
    "ensemble: no probabilities": Mistake("ensemble", "-i {ct} {mri} -o {out}", "{ct}"),
    "ensemble: no predictions": Mistake("ensemble", "-i {ct} {mri} -o {out}", "ct/dataset.json", every(
        text("ct/a.npz", "x"), text("mri/a.npz", "x"))),
    "register: no folder": Mistake("register", "-i {place}/nowhere -o {out}", "nowhere"),
    "register: no cases": Mistake("register", "-i {ct} -o {out}", "{ct}"),
    "register: over the input": Mistake("register", "-i {images} -o {images}", "-o"),
    "register: no such reference": Mistake("register", "-i {images} -o {out} --reference 9", "--reference"),
    "report: no folder": Mistake("report", "{place}/nowhere", "nowhere"),
    "report: no prediction": Mistake("report", "{ct}", "{ct}"),
    "report: nothing fused": Mistake("report", "{predictions}", "no fused image",
                                     copied(f"{MODEL}/dataset.json", "predictions/dataset.json")),
    "submit: no command of ours": Mistake("submit", "-o {out} -- rm -r data", "one of this tool"),
    "submit: nothing to run": Mistake("submit", "-o {out}", "command"),
    "info: unknown flag": Mistake("info", "--all", "--all", status=UNPARSED),
    # ------------------------------------------------------------------ fuse, evaluate_fusion
    "fuse: unknown rule": Mistake("fuse", PICTURES + " --rule best", "best", status=UNPARSED),
    "fuse: rule and model": Mistake("fuse", PICTURES + " --rule max -m {model}", "--rule"),
    "fuse: one folder of loose images": Mistake("fuse", "-i {ct} -o {out} --rule max", "{ct}"),
    "fuse: the same folder twice": Mistake("fuse", "-i {ct} {ct} -o {out} --rule max", "-i"),
    "fuse: no images": Mistake("fuse", "-i {ct} {place}/roots -o {out} --rule max", "roots"),
    "fuse: unpaired": Mistake("fuse", PICTURES + " --rule max", "{mri}", gone("mri/b.png")),
    "fuse: sizes differ": Mistake("fuse", PICTURES + " --rule max", "a.png", every(
        picture("mri/a.png", "L", (20, 32)), gone("ct/b.png"), gone("mri/b.png"))),
    "fuse: 16 bit": Mistake("fuse", PICTURES + " --rule max", "mri/a.png", every(
        picture("mri/a.png", "I;16"), gone("ct/b.png"), gone("mri/b.png"))),
    "fuse: transparent": Mistake("fuse", PICTURES + " --rule max", "mri/a.png", every(
        picture("mri/a.png", "RGBA"), gone("ct/b.png"), gone("mri/b.png"))),
    "fuse: image truncated": Mistake("fuse", PICTURES + " --rule max", "mri/a.png", every(
        cut("mri/a.png"), gone("ct/b.png"), gone("mri/b.png"))),
    "fuse: image is text": Mistake("fuse", PICTURES + " --rule max", "mri/a.png", every(
        text("mri/a.png", "x"), gone("ct/b.png"), gone("mri/b.png"))),
    "fuse: range upside down": Mistake("fuse", PICTURES + " --rule max --range 1 0", "--range"),
    "fuse: no such model": Mistake("fuse", PICTURES + " -m {place}/nowhere -device cpu", "nowhere"),
    "fuse: model of other modalities": Mistake("fuse", PICTURES + " -m {model} -device cpu", "modalities"),
    "score: no JSON": Mistake("evaluate_fusion", SCORE.replace(".json", ".txt"), "-o"),
    "score: range of nothing": Mistake("evaluate_fusion", SCORE + " --ssim_range 0", "--ssim_range"),
    "score: range is NaN": Mistake("evaluate_fusion", SCORE + " --ssim_range nan", "--ssim_range"),
    "score: record damaged": Mistake("evaluate_fusion", SCORE, "fused/fused.json", text("fused/fused.json", "{")),
    "score: record of words": Mistake("evaluate_fusion", SCORE, "fused/fused.json", text("fused/fused.json", '{"method": 1}')),
    "score: stale": Mistake("evaluate_fusion", SCORE, "fused/a.png", every(
        text("fused/fused.json", '{"method": {}, "sources": ["ct", "mri"], "checksums": {"a": ["1", "2"]}}'),
        gone("ct/b.png"), gone("mri/b.png"), gone("fused/b.png"))),
    "score: labels of no folder": Mistake("evaluate_fusion", SCORE + " --labels {place}/nowhere", "nowhere"),
    "score: labels of other cases": Mistake("evaluate_fusion", SCORE + " --labels {labels}", "{labels}"),
    "score: unpaired": Mistake("evaluate_fusion", SCORE, "{fused}", gone("fused/b.png")),
    "score: other size": Mistake("evaluate_fusion", SCORE, "a.png", every(
        picture("fused/a.png", "L", (9, 9)), gone("ct/b.png"), gone("mri/b.png"), gone("fused/b.png"))),
    # ------------------------------------------------------------------ evaluate
    "evaluate: no dataset.json": Mistake("evaluate", "{ct} {mri}", "dataset.json"),
    "evaluate: dataset.json is no JSON": Mistake("evaluate", "{labels} {labels} -djfile {ct}/a.png", "ct/a.png"),
    "evaluate: unknown region": Mistake("evaluate", "{labels} {labels} --regions tumour", "--regions"),
    "evaluate: region of unknown labels": Mistake("evaluate", "{labels} {labels} --regions x=77", "77"),
    "evaluate: no predictions": Mistake("evaluate", "{labels} {place}/nowhere", "nowhere"),
    "evaluate: unpaired": Mistake("evaluate", "{labels} {predictions} -djfile {raw}/dataset.json", "phantom_001", gone(
        "predictions/phantom_001.nii.gz")),
    "evaluate: damaged prediction": Mistake("evaluate", "{labels} {predictions} -djfile {raw}/dataset.json", "phantom_000", cut(
        "predictions/phantom_000.nii.gz")),
    "evaluate: prediction elsewhere": Mistake("evaluate", "{labels} {predictions} -djfile {raw}/dataset.json", "phantom_000",
                                              moved("predictions/phantom_000.nii.gz")),
    "evaluate: negative seed": Mistake("evaluate", "{labels} {predictions} -djfile {raw}/dataset.json --seed -1", "--seed"),
    "evaluate: undeclared label": Mistake("evaluate", "{labels} {predictions} -djfile {raw}/dataset.json", "phantom_000", voxels(
        "predictions/phantom_000.nii.gz", lambda data: data + np.uint8(9))),
    "evaluate: nobody to compare with": Mistake("evaluate", "{labels} {predictions} -djfile {raw}/dataset.json --against {ct}",
                                                "{ct}"),
    # ------------------------------------------------------------------ compare, build_brats_fuse, demo
    "compare: not planned": Mistake("compare", "991 2d -o {out}", "991"),
    "compare: unknown row": Mistake("compare", "990 2d -o {out} --rows best", "best"),
    "compare: row without a folder": Mistake("compare", "990 2d -o {out} --images mine", "--images"),
    "compare: row twice": Mistake("compare", "990 2d -o {out} --variant a=x --variant a=y", "--variant"),
    "compare: change that is none": Mistake("compare", "990 2d -o {out} --variant a=x", "--set"),
    "compare: unknown device": Mistake("compare", "990 2d -o {out} --devices tpu", "tpu"),
    "compare: images that are not there": Mistake("compare", "990 2d -o {out} --rows --images mine={place}/nowhere --devices cpu",
                                                  "nowhere"),
    "compare: no time": Mistake("compare", "990 2d -o {out} --minutes 0 --devices cpu", "--minutes"),
    "compare: negative seed": Mistake("compare", "990 2d -o {out} --seed 0 -1 --devices cpu", "--seed"),
    "compare: conditions that are no JSON": Mistake("compare", "990 2d -o {out} --devices cpu", "out/conditions.json", every(
        folder("out"), text("out/conditions.json", "{"))),
    "compare: no such configuration": Mistake("compare", "990 9d -o {out} --devices cpu", "9d"),
    "compare: no such fold": Mistake("compare", "990 2d -o {out} -f 9 --devices cpu", "9"),
    "build: no release": Mistake("build_brats_fuse", BRATS, "{brats}", every(gone("brats"), copied("ct/a.png", "brats"))),
    "build: no images": Mistake("build_brats_fuse", BRATS.replace("{brats}", "{ct}"), "{ct}"),
    "build: no such model": Mistake("build_brats_fuse", BRATS.replace("{model}", "{ct}"), "{ct}"),
    "build: modality missing": Mistake("build_brats_fuse", BRATS, "T2", gone("brats/a/a_t2.nii.gz")),
    "build: damaged checkpoint": Mistake("build_brats_fuse", BRATS, CHECKPOINT, cut(CHECKPOINT)),
    "build: no process": Mistake("build_brats_fuse", BRATS.replace("-np 1", "-np 0"), "-np"),
    "demo: over something else": Mistake("demo", "-o {ct} -device cpu", "{ct}"),
    "demo: over a file": Mistake("demo", "-o {ct}/a.png -device cpu", "{ct}/a.png"),
    "demo: negative seed": Mistake("demo", "-o {out} -device cpu --seed -1", "--seed"),
    # ------------------------------------------------------------------ export_model, install_model
    "export: no such model": Mistake("export_model", "-m {ct} -o {out}.zip", "{ct}"),
    "export: no archive": Mistake("export_model", "-m {model} -o {out}", "-o"),
    "export: no folder": Mistake("export_model", "-m {model} -o {place}/nowhere/x.zip", "nowhere"),
    "export: no such checkpoint": Mistake("export_model", "-m {model} -o {out}.zip -chk checkpoint_final.pth other.pth",
                                          "other.pth"),
    "export: damaged checkpoint": Mistake("export_model", "-m {model} -o {out}.zip", CHECKPOINT, cut(CHECKPOINT)),
    "install: no file": Mistake("install_model", "{place}/nowhere.zip", "nowhere.zip"),
    "install: no archive": Mistake("install_model", "{ct}/a.png", "{ct}/a.png"),
    "install: a folder": Mistake("install_model", "{ct}", "{ct}"),
    "install: over a model": Mistake("install_model", "{archive}", "--overwrite"),
    "install: truncated": Mistake("install_model", "{archive} --overwrite", "{archive}", cut("model.zip")),
}


@pytest.fixture(scope="module")
def sound(untrained_phantom: Path, exported_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the commands need, and nothing wrong with it; leave it as it is."""
    place = tmp_path_factory.mktemp("sound") / "place"
    shutil.copytree(untrained_phantom, place / "roots")
    random = np.random.default_rng(0)
    for name in ("ct", "mri", "fused"):
        (place / name).mkdir()
        for case in "ab":
            Picture.fromarray(random.integers(0, 255, (32, 32), dtype=np.uint8)).save(place / name / f"{case}.png")
    (place / "brats" / "a").mkdir(parents=True)
    for number, kind in enumerate(("t1", "t1ce", "t2", "flair")):
        shutil.copy(place / RAW / "imagesTr" / f"phantom_000_{number:04d}.nii.gz", place / "brats" / "a" / f"a_{kind}.nii.gz")
    shutil.copy(place / RAW / "labelsTr" / "phantom_000.nii.gz", place / "brats" / "a" / "a_seg.nii.gz")
    shutil.copytree(place / RAW / "labelsTr", place / "predictions")
    shutil.copy(exported_model, place / "model.zip")
    return place


@pytest.fixture
def place(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "place"))


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """An answer that does not come is no answer."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"no answer within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def listing(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def in_place(text: str, place: Path) -> str:
    return text.format(place=place, model=place / MODEL, raw=place / RAW, images=place / RAW / "imagesTs", out=place / "out",
                       labels=place / RAW / "labelsTr", archive=place / "model.zip",
                       **{name: place / name for name in ("ct", "mri", "fused", "brats", "predictions")})


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_answered_with_one_line(mistake: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command, flags, names, broken, status, leaves = MISTAKES[mistake]
    if broken:
        broken(place)
    before = listing(place)
    main = import_module(f"fuse4seg.cli.{command}").main
    words = [in_place(word, place) for word in flags.split()]
    if status == UNPARSED:
        with pytest.raises(SystemExit) as ended:
            main([*words, "--root", str(place / "roots")])
        assert ended.value.code == UNPARSED
    else:
        assert main([*words, "--root", str(place / "roots")]) == status
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    lines = shown.splitlines()
    answers = [number for number, line in enumerate(lines) if re.match(r"(\S+: )?error: ", line)]
    assert len(answers) == 1
    # Where each faulty case has its line, a last one counts them.
    assert all(re.match(r".*\d+ faulty case\(s\)", line) for line in lines[answers[0] + 1:])
    assert in_place(names, place) in lines[answers[0]]
    after = listing(place)
    changed = {name for name in {*after, *before} if after.get(name, "gone") != before.get(name, "gone")}
    assert sorted(name for name in changed if leaves not in name) == []


def test_there_are_enough_over_all_commands() -> None:
    setup = (Path(__file__).parents[2] / "setup.py").read_text()
    commands = re.findall(r'"(\w+)"', re.search(r"COMMANDS = \((.*?)\)", setup, re.DOTALL)[1])
    assert {mistake.command for mistake in MISTAKES.values()} == set(commands)
    assert len(MISTAKES) >= 60
