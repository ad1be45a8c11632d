"""The trainer's name for nnU-Net's search: point nnUNet_extTrainer at this folder, which holds nothing else."""

from fuse4seg.training.trainer import Fuse4SegTrainer as Fuse4SegTrainer
