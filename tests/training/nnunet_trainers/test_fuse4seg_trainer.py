"""nnU-Net's own search of nnUNet_extTrainer finds the trainer, and it is the one that our commands train with."""

from __future__ import annotations

from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

from fuse4seg.paths import TRAINER_FOLDER
from fuse4seg.training.trainer import Fuse4SegTrainer


def test_nnunet_finds_the_trainer_in_its_folder() -> None:
    folder = str(TRAINER_FOLDER)
    found = recursive_find_python_class(folder, "Fuse4SegTrainer", None, base_folder=folder,
                                        cleanup_imports_from_base_folder=True)
    assert found is Fuse4SegTrainer
