"""Installs Fuse4Seg and its commands."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "fuse4seg" / "__init__.py").read_text(), re.MULTILINE).group(1)
README = ROOT / "README.md"
# Cases on the workers of a cluster.
CLUSTER = ["distributed>=2024.8"]
# The site of the documentation; its pages and their links are tested without it, too.
DOCS = ["latex2mathml>=3.76", "mkdocs-material>=9.5"]
# Where a training is watched.
TENSORBOARD, WANDB = ["tensorboard>=2.15"], ["wandb>=0.17"]
# Needed for DICOM alone, and by the tests.
DICOM = ["highdicom>=0.25", "pydicom>=3"]
COMMANDS = ("convert_dataset", "extract_fingerprint", "plan_experiment", "preprocess", "plan_and_preprocess", "pretrain", "train",
            "find_best_configuration", "predict", "ensemble", "fuse", "register", "evaluate", "evaluate_fusion", "report",
            "compare", "build_brats_fuse", "export_model", "install_model", "submit", "info", "demo")


class BuildWithViewer(build_py):
    """Also puts the viewer of reports into the package; without npm or a network a report has pictures alone."""

    def run(self) -> None:
        """Fetch it before files are listed; also where the package is installed in place."""
        runpy.run_path(str(ROOT / "fuse4seg" / "report" / "fetch_viewer.py"))["fetch_viewer"]()
        super().run()


setup(
    name="fuse4seg",
    version=VERSION,
    description="Fuse a patient's modalities into one readable image and segment that image, on top of nnU-Net",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The Fuse4Seg developers",
    keywords=["medical image segmentation", "image fusion", "multi-modality", "bi-level optimisation", "nnU-Net"],
    python_requires=">=3.11",
    packages=find_packages(include=["fuse4seg", "fuse4seg.*"]),
    # The folder that nnUNet_extTrainer points at is no package, and is installed as data.
    package_data={"fuse4seg": ["**/*.py", "**/*.json", "**/*.toml", "py.typed", "report/templates/*", "report/static/*",
                               "report/viewer/*"]},
    install_requires=[
        "torch>=2.4,!=2.9.*",
        "nnunetv2>=2.8.1,<2.9",
        "batchgenerators>=0.25.1",
        "batchgeneratorsv2>=0.3.2",
        "acvl-utils>=0.2.6,<0.3",
        "dynamic-network-architectures>=0.4.4,<0.5",
        "SimpleITK>=2.2.1",
        "jinja2>=3.1",
        "matplotlib>=3.7",
        "monai>=1.4",
        "nibabel>=5",
        "numpy>=1.24",
        "pillow>=10.1",
        "PyWavelets>=1.5",
        "safetensors>=0.4.3",
        "scipy>=1.15",
        "tqdm>=4.60",
    ],
    extras_require={
        "brats": ["hd-bet>=2"],
        "dicom": DICOM,
        "cluster": CLUSTER,
        "docs": DOCS,
        # PyTorch's exporter; the program that runs what it wrote needs onnxruntime alone.
        "onnx": ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.3"],
        "tensorboard": TENSORBOARD,
        "wandb": WANDB,
        "dev": [
            "axe-core-python>=0.1",
            "hypothesis>=6.100",
            "onnx>=1.16",
            "onnxruntime>=1.18",
            "onnxscript>=0.3",
            "playwright>=1.45",
            "pre-commit>=3.5",
            "pytest>=8",
            "pytest-xdist>=3.5",
            "ruff>=0.9",
            "scikit-image>=0.22",
            "scikit-learn>=1.3",
            "sewar>=0.4.5",
            *DICOM,
            *CLUSTER,
            *DOCS,
            *TENSORBOARD,
            *WANDB,
        ],
    },
    cmdclass={"build_py": BuildWithViewer},
    entry_points={"console_scripts": [f"f4s_{command} = fuse4seg.cli.{command}:main" for command in COMMANDS]},
)
