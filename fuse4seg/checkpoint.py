"""Checkpoints: plain data that loads without running code, written whole."""

from __future__ import annotations

import json
import logging
import pickle
import struct
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg.errors import first_line
from fuse4seg.files import written_whole
from fuse4seg.model_errors import CheckpointError, CheckpointNotFoundError

log = logging.getLogger(__name__)

#: What plain data are made of; their subclasses would need code to be loaded.
PLAIN = (type(None), bool, int, float, str, bytes)
#: What reading a damaged or malicious file can end in.
UNREADABLE = (zipfile.BadZipFile, pickle.UnpicklingError, struct.error, OSError, EOFError, RuntimeError, LookupError,
              ValueError, TypeError, AttributeError)

MEND = "Use the plans it was trained with."
TRUST = "If stock nnU-Net wrote it and you know who made it, give --trust where the command has it."
#: What to do about a file that is no checkpoint.
ANOTHER = "Copy it again, or give one that f4s_train or nnUNetv2_train wrote."
#: Entries of a configuration that a training depends on.
DECISIVE = ("architecture", "patch_size", "batch_size", "spacing", "normalization_schemes", "use_mask_for_norm")

#: How NumPy's numbers and arrays are pickled: by functions and classes of these names, in its modules as they were and are.
OF_NUMPY = (*((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
            ("numpy", "dtype"), ("numpy", "ndarray"))


class LeftOut:
    """Stands where a checkpoint holds a number of NumPy's, whose own reading can be misled."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def to_plain(value: Any) -> Any:
    """Turn numpy scalars and arrays, paths and odd containers into what ``torch.load(weights_only=True)`` accepts.

    Raises:
        TypeError: A value has no plain form.
    """
    if isinstance(value, dict):
        return {to_plain(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [to_plain(item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, Path):
        return str(value)
    if type(value) in PLAIN or isinstance(value, (torch.Tensor, torch.device)):
        return value
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__}")


def previous_of(path: Path) -> Path:
    """Where the checkpoint goes that ``path`` replaces."""
    return path.with_name(f"{path.stem}_previous{path.suffix}")


def save_checkpoint(content: dict[str, Any], path: Path, *, keep_previous: bool = False) -> None:
    """Write ``content`` as plain data, whole or not at all.

    Args:
        content: To write.
        path: File to write it to.
        keep_previous: Rename the file that is there instead of replacing it.

    Raises:
        UnwritableFolderError: The operating system refused to write.
        TypeError: A value has no plain form.
    """
    plain = to_plain(content)
    previous = previous_of(path) if keep_previous else None
    with written_whole(path, previous=previous) as temporary, temporary.open("wb") as stream:
        try:
            torch.save(plain, stream)
        except RuntimeError as error:
            # On a full disk PyTorch complains on top of the operating system.
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def require_same_plans(state: dict[str, Any], path: Path, plans: dict[str, Any]) -> None:
    """Make sure that a checkpoint was trained with these plans, as far as its configuration goes.

    Weights of equal shapes load without a word into a network that means something else by them, for example one with another
    reference modality.

    Args:
        state: The checkpoint's content.
        path: Its file.
        plans: To compare with.

    Raises:
        CheckpointError: It was not; the message names what differs.
    """
    try:
        trained, configuration = state["init_args"]["plans"], state["init_args"]["configuration"]
        then = _plain_configuration(trained, configuration)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(path, "does not say what it was trained with. Give one that f4s_train wrote.") from error
    if configuration not in plans["configurations"]:
        raise CheckpointError(path, f"was trained with {configuration}, which these plans lack. {MEND}")
    now = _plain_configuration(plans, configuration)
    differing = [entry for entry in DECISIVE if then.get(entry) != now.get(entry)]
    if differing:
        raise CheckpointError(path, f"does not fit these plans: {', '.join(differing)} of {configuration} differs. {MEND}")


def _plain_configuration(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """With what it inherits, and as it would come out of a file."""
    return json.loads(json.dumps(PlansManager(dict(plans)).get_configuration(configuration).configuration))


def _check(path: Path) -> None:
    """Compare every record with its checksum; PyTorch never looks, and loads a flipped bit as a weight.

    What these do not cover (dates, padding between records) says nothing of the content.

    Raises:
        zipfile.BadZipFile: It is damaged, or no archive.
    """
    with zipfile.ZipFile(path) as archive:
        # PyTorch writes plain records alone. A compressed one could unpack to any size, and a folder would be read as noise.
        odd = [entry.filename for entry in archive.infolist() if entry.compress_type or entry.external_attr]
        damaged = odd[0] if odd else archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"record {damaged} does not match its checksum or its kind")


def load_checkpoint(path: Path, *, device: torch.device | str = "cpu",
                    mend: str = "Train first, or check the path.", trust: bool = False) -> dict[str, Any]:
    """Read a checkpoint without running any code that it might hold, unless its maker is trusted.

    Args:
        path: File to read.
        device: Where its tensors go.
        mend: What the user can do if there is none.
        trust: Load whatever it holds, and run the code in it: stock nnU-Net's checkpoints hold NumPy scalars.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointError: The file is damaged, or holds more than plain data without ``trust``.
    """
    if not path.is_file():
        raise CheckpointNotFoundError(path, mend)
    try:
        # Of before PyTorch 1.6, checkpoints are no archives, and hold code.
        if not trust or zipfile.is_zipfile(path):
            _check(path)
        state = torch.load(path, map_location=device, weights_only=not trust)
    except pickle.UnpicklingError as error:
        raise CheckpointError(path, f"damaged, or not plain data ({first_line(error)}). {TRUST}") from error
    except UNREADABLE as error:
        raise CheckpointError(path, f"damaged, or not plain data ({first_line(error)}). {ANOTHER}") from error
    if not isinstance(state, dict):
        raise CheckpointError(path, f"is no checkpoint: it holds a {type(state).__name__}. {ANOTHER}")
    return state


def load_without_numpy(path: Path, *, mend: str) -> dict[str, Any]:
    """Read a checkpoint as :func:`load_checkpoint` does, stock nnU-Net's, too, whose log holds NumPy's numbers.

    They are :class:`LeftOut`, and none of NumPy's code runs.

    Args:
        path: File to read.
        mend: What the user can do if there is none.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointError: The file is damaged, or holds more than plain data and numbers.
    """
    with _numpy_left_out():
        return load_checkpoint(path, mend=mend)


@contextmanager
def _numpy_left_out() -> Iterator[None]:
    known = list(torch.serialization.get_safe_globals())
    torch.serialization.add_safe_globals([type(name, (LeftOut,), {"__module__": module}) for module, name in OF_NUMPY])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(known)


def load_first_sound(paths: Iterable[Path]) -> tuple[Path, dict[str, Any]]:
    """Read the first of several checkpoints that is not damaged, on the CPU; a warning names those that are.

    Args:
        paths: At least one, most wanted first; all of them are there.

    Returns:
        Which one it is, and its content.

    Raises:
        CheckpointError: All are damaged; it names the first.
    """
    damaged: list[CheckpointError] = []
    for path in paths:
        try:
            state = load_checkpoint(path)
        except CheckpointError as error:
            damaged.append(error)
            continue
        for error in damaged:
            log.warning("%s. Going on from %s instead.", error, path)
        return path, state
    raise damaged[0]
