"""Fuse4Seg: fuse a patient's modalities into one readable image and segment that image."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fuse4seg.inference.python_predictor import Prediction, Predictor

__version__ = "0.1.0"
__all__ = ["Prediction", "Predictor"]


def __getattr__(name: str) -> object:
    """Import what prediction needs when it is asked for: importing the package itself loads neither torch nor nnU-Net."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fuse4seg.paths import prepare_environment

    # nnU-Net reads its environment when it is imported.
    prepare_environment()
    from fuse4seg.inference import python_predictor

    return getattr(python_predictor, name)
