"""What f4s_predict is given: a folder of CASE_0000 files, a BIDS dataset, or DICOM, of which each gets its own kind back."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from fuse4seg.case_faults import fault_of
from fuse4seg.datasets.bids import is_bids
from fuse4seg.datasets.images import find_reader
from fuse4seg.datasets.raw import channel_files, is_dicom
from fuse4seg.errors import FaultyCasesError, Fuse4SegError, MissingExtraError, OptionError, UnwritableFolderError
from fuse4seg.inference.model import ModelDescription
from fuse4seg.inference.run_record import RunRecord
from fuse4seg.own_outputs import OwnOutputs, claim_outputs, require_apart
from fuse4seg.progress import progress
