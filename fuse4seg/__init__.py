"""Fuse4Seg: fuse a patient's modalities into one readable image and segment that image."""

__version__ = "0.1.0"
