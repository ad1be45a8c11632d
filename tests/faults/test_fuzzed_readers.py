"""Readers of files that may come from anywhere: whatever stands in them, there is an answer in time, or a named error."""

from __future__ import annotations

import faulthandler
import gzip
import hashlib
import io
import json
import resource
import shutil
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import hypothesis
import nibabel
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from PIL import Image as Picture

from fuse4seg.checkpoint import load_checkpoint
from fuse4seg.datasets.dataset_json import channel_names, foreground_classes, label_values, read_dataset_description
from fuse4seg.datasets.fused_record import FusedRecord, read_record
from fuse4seg.datasets.grey_images import read_grey_image
from fuse4seg.datasets.images import read_image
from fuse4seg.errors import Fuse4SegError
from fuse4seg.inference.image_files import RGB24, read_fused
from fuse4seg.inference.model import load_model
from fuse4seg.inference.run_record import RunRecord, open_record
from fuse4seg.planning.fingerprint import read_fingerprint
from fuse4seg.sharing.install_model import install_models

MODEL = "Dataset990_Phantom/Fuse4SegTrainer__Fuse4SegPlans__2d"
#: Examples of the short form, per reader; seconds of the long form, per reader, 10 minutes in all.
EXAMPLES, TOTAL_SECONDS = 12, 600
#: Longest that an answer may take, and memory that may be taken for it, whatever a header claims.
SECONDS, BYTES = 20, 6 << 30
#: Where headers lie: at the beginning, and in zip archives at the end.
HEADER, TRAILER = 400, 2000
#: Values that headers are sensitive to.
TELLING = [bytes(4), b"\xff" * 4, b"\xff\x7f", b"\x00\x80", bytes(3) + b"\x80", b"\xff\xff\xff\x7f", b"\x01", b"\0\0\x80\x7f"]


class RecordFigure(Protocol):
    """Fixture ``record_figure`` of conftest.py."""

    def __call__(self, figure: str, *, target: str, measured: str) -> None: ...


# ------------------------------------------------------------------ mutations


@st.composite
def mutated_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """A file with a few bytes overwritten, inserted or removed, or cut off, headers most often."""
    for _ in range(draw(st.integers(1, 4))):
        last = max(0, len(content) - 1)
        place = draw(st.one_of(st.integers(0, min(HEADER, last)), st.integers(max(0, last - TRAILER), last),
                               st.integers(0, last)))
        change = draw(st.sampled_from(("overwrite", "insert", "remove", "cut")))
        piece = draw(st.one_of(st.sampled_from(TELLING), st.binary(min_size=1, max_size=8)))
        if change == "overwrite":
            content = content[:place] + piece + content[place + len(piece):]
        elif change == "insert":
            content = content[:place] + piece + content[place:]
        elif change == "remove":
            content = content[:place] + content[place + len(piece):]
        else:
            content = content[:place]
    return content


@st.composite
def mutated_json(draw: st.DrawFn, content: Any) -> bytes:
    """JSON with a few entries replaced, removed, renamed or doubled, wherever they stand."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 3))):
        content = _changed(draw, content)
    return json.dumps(content).encode()


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-3, 300), st.sampled_from([2**31, 2**63, -(2**40), 1e308, 1e-300]),
                    st.floats(), st.text(max_size=8), st.sampled_from(["os.system", "../x", "torch.nn.Linear", "", "0", "2d"]))
VALUES = st.recursive(SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner,
                                                                                                    max_size=3)), max_leaves=6)


def _changed(draw: st.DrawFn, content: Any) -> Any:
    """Go down a random way, and change what is there."""
    keys = list(content) if isinstance(content, dict) else list(range(len(content))) if isinstance(content, list) else []
    if not keys or draw(st.integers(0, 9)) == 0:
        return draw(VALUES)
    key, what = draw(st.sampled_from(keys)), draw(st.sampled_from(("descend",) * 6 + ("remove", "rename", "double")))
    if what == "remove":
        del content[key]
    elif what == "rename" and isinstance(content, dict):
        content[draw(st.text(max_size=5))] = content.pop(key)
    elif what == "double" and isinstance(content, list):
        content.append(content[key])
    else:
        content[key] = _changed(draw, content[key])
    return content


@st.composite
def mutated_member(draw: st.DrawFn, archive: bytes) -> bytes:
    """An archive of models with one member changed inside, and its checksum made to fit."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    chosen = draw(st.sampled_from(sorted(members)))
    if chosen.endswith(".json") and draw(st.booleans()):
        members[chosen] = draw(mutated_json(json.loads(members[chosen])))
    else:
        members[chosen] = draw(mutated_bytes(members[chosen]))
    if chosen != "manifest.json":
        manifest = json.loads(members["manifest.json"])
        manifest["checksums"][chosen] = hashlib.sha256(members[chosen]).hexdigest()
        members["manifest.json"] = json.dumps(manifest).encode()
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return written.getvalue()


def mutated_gzip(content: bytes) -> st.SearchStrategy[bytes]:
    """Changed before or after packing."""
    return st.one_of(mutated_bytes(content).map(lambda inner: gzip.compress(inner, 1)), mutated_bytes(gzip.compress(content, 1)))


def json_or_bytes(path: Path) -> st.SearchStrategy[bytes]:
    return st.one_of(mutated_json(json.loads(path.read_text())), mutated_bytes(path.read_bytes()))


# ------------------------------------------------------------------ readers


class Reader:
    """A file to read, what may stand in it, and how it is read.

    Args:
        path: Where mutated content is written.
        contents: Mutated contents.
        read: Reads ``path``.
    """

    def __init__(self, path: Path, contents: st.SearchStrategy[bytes], read: Callable[[], object]) -> None:
        self.path, self.contents, self.read = path, contents, read

    def answer(self, content: bytes) -> str:
        """Let the file be read; gives back what came of it."""
        self.path.write_bytes(content)
        answer = "read"
        with limited():
            try:
                self.read()
            except Fuse4SegError as error:
                answer = type(error).__name__
        return answer


@contextmanager
def limited() -> Iterator[None]:
    """Within the block, time and memory are short; a library that hangs outside of Python ends the process with its stack."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"no answer within {SECONDS} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    handler = signal.signal(signal.SIGALRM, give_up)
    resource.setrlimit(resource.RLIMIT_AS, (taken + BYTES, hard))
    faulthandler.dump_traceback_later(3 * SECONDS, exit=True)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, handler)


def nifti(dtype: type = np.float32) -> bytes:
    return nibabel.Nifti1Image((np.arange(480) % 7).reshape(6, 8, 10).astype(dtype), np.diag([1, 2, 3, 1])).to_bytes()


def coloured_nifti() -> bytes:
    """As a fused image in colour is written."""
    levels = (np.arange(1440) % 251).reshape(6, 8, 10, 3).astype(np.uint8)
    return nibabel.Nifti1Image(levels.view(RGB24)[..., 0], np.diag([1, 2, 3, 1])).to_bytes()


def encoded(kind: str, mode: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Picture.fromarray(pixels).convert(mode).save(stream, kind)
    return stream.getvalue()


def read_volume(path: Path, reader: type) -> None:
    read_image(path, reader)


def describe(path: Path) -> None:
    content = read_dataset_description(path)
    channel_names(content), foreground_classes(content), label_values(content)


def installed(path: Path, results: Path) -> None:
    """Whatever comes of it, nothing stays behind but whole models."""
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("nnUNet_results", str(results))
            install_models(path, overwrite=True)
    finally:
        left = {str(found.relative_to(results)) for found in results.rglob("*") if found.is_file()}
        shutil.rmtree(results)
        results.mkdir()
        assert all("/fold_" in name or name.endswith(".json") for name in left)
        assert not any(name.startswith(".") for name in left)


READERS = ("dataset.json", "fingerprint", "model's plans", "model's dataset.json", "checkpoint", "archive", "archive's members",
           "NIfTI by ITK", "packed NIfTI by ITK", "packed NIfTI by nibabel", "NIfTI to fuse", "coloured NIfTI to fuse",
           "fused NIfTI", "fused PNG", "fused BMP", "PNG", "coloured PNG", "BMP", "records")


@pytest.fixture(scope="module")
def make_reader(untrained_model: Path, planned_phantom: Path, exported_model: Path,
                tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reader]:
    """Function that gives one of READERS."""
    place = tmp_path_factory.mktemp("fuzzed")
    (place / "results").mkdir()
    shutil.copytree(untrained_model, place / MODEL)
    described = untrained_model / "dataset.json"
    fingerprint = planned_phantom / "nnUNet_preprocessed" / "Dataset990_Phantom" / "dataset_fingerprint.json"
    checkpoint = Path("fold_0", "checkpoint_final.pth")
    FusedRecord({"rule": "max"}, ("a", "b"), {"case": ("1", "2")}).write(place)
    made_by = dict.fromkeys(("model", "folds", "checkpoint", "weights", "options"), 1)
    RunRecord(place / "run.json", made_by, {"case": {"status": "done", "sources": {}, "outputs": ["x"]}}).write()

    def predictable(name: str) -> Callable[[], object]:
        def load() -> None:
            try:
                load_model(place / MODEL, folds=[0], device=torch.device("cpu"))
            finally:
                shutil.copy(untrained_model / name, place / MODEL / name)
        return load

    def records() -> None:
        for name in ("fused.json", "run.json"):
            if name == "fused.json":
                shutil.copy(place / "record", place / name)
                read_record(place)
            else:
                shutil.copy(place / "record", place / name)
                open_record(place, made_by, resume=True).is_done("case", [], place)

    def make(name: str) -> Reader:
        file = place / "file"
        known: dict[str, Callable[[], Reader]] = {
            "dataset.json": lambda: Reader(file, json_or_bytes(described), lambda: describe(file)),
            "fingerprint": lambda: Reader(file, json_or_bytes(fingerprint), lambda: read_fingerprint(file)),
            "model's plans": lambda: Reader(place / MODEL / "plans.json", json_or_bytes(untrained_model / "plans.json"),
                                            predictable("plans.json")),
            "model's dataset.json": lambda: Reader(place / MODEL / "dataset.json", json_or_bytes(described),
                                                   predictable("dataset.json")),
            "checkpoint": lambda: Reader(file, mutated_bytes((untrained_model / checkpoint).read_bytes()),
                                         lambda: load_checkpoint(file)),
            "archive": lambda: Reader(file, mutated_bytes(exported_model.read_bytes()),
                                      lambda: installed(file, place / "results")),
            "archive's members": lambda: Reader(file, mutated_member(exported_model.read_bytes()),
                                                lambda: installed(file, place / "results")),
            "NIfTI by ITK": lambda: Reader(place / "a.nii", mutated_bytes(nifti()),
                                           lambda: read_volume(place / "a.nii", SimpleITKIO)),
            "packed NIfTI by ITK": lambda: Reader(place / "a.nii.gz", mutated_gzip(nifti(np.int16)),
                                                  lambda: read_volume(place / "a.nii.gz", SimpleITKIO)),
            "packed NIfTI by nibabel": lambda: Reader(place / "a.nii.gz", mutated_gzip(nifti()),
                                                      lambda: read_volume(place / "a.nii.gz", NibabelIO)),
            "NIfTI to fuse": lambda: Reader(place / "a.nii.gz", mutated_gzip(nifti(np.uint8)),
                                            lambda: read_grey_image(place / "a.nii.gz")),
            "coloured NIfTI to fuse": lambda: Reader(place / "a.nii.gz", mutated_gzip(coloured_nifti()),
                                                     lambda: read_grey_image(place / "a.nii.gz")),
            "fused NIfTI": lambda: Reader(place / "a.nii", mutated_bytes(coloured_nifti()),
                                          lambda: read_fused(place / "a.nii", NibabelIOWithReorient)),
            "fused PNG": lambda: Reader(place / "a.png", mutated_bytes(encoded("png", "RGB")),
                                        lambda: read_fused(place / "a.png", NaturalImage2DIO)),
            "fused BMP": lambda: Reader(place / "a.bmp", mutated_bytes(encoded("bmp", "L")),
                                        lambda: read_fused(place / "a.bmp", NaturalImage2DIO)),
            "PNG": lambda: Reader(place / "a.png", mutated_bytes(encoded("png", "L")),
                                  lambda: read_grey_image(place / "a.png")),
            "coloured PNG": lambda: Reader(place / "a.png", mutated_bytes(encoded("png", "P")),
                                           lambda: read_grey_image(place / "a.png")),
            "BMP": lambda: Reader(place / "a.bmp", mutated_bytes(encoded("bmp", "RGB")),
                                  lambda: read_grey_image(place / "a.bmp")),
            "records": lambda: Reader(place / "record", st.one_of(*(json_or_bytes(place / record) for record in
                                                                    ("fused.json", "run.json"))), records),
        }
        assert set(known) == set(READERS)
        return known[name]()

    return make


def fuzz(reader: Reader, *, examples: int, seed: int) -> dict[str, int]:
    """Read so many mutated files; gives back how often each answer came."""
    answers: dict[str, int] = {}

    @hypothesis.seed(seed)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=False)
    @given(reader.contents)
    def read(content: bytes) -> None:
        answer = reader.answer(content)
        answers[answer] = answers.get(answer, 0) + 1

    read()
    return answers


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_readers_answer(name: str, make_reader: Callable[[str], Reader]) -> None:
    answers = fuzz(make_reader(name), examples=EXAMPLES, seed=0)
    assert sum(answers.values()) >= EXAMPLES


@pytest.mark.filterwarnings("ignore")
@pytest.mark.faults
def test_readers_answer_for_ten_minutes(make_reader: Callable[[str], Reader], record_figure: RecordFigure) -> None:
    read, failed = 0, []
    begin = time.monotonic()
    for name in READERS:
        reader, end = make_reader(name), time.monotonic() + TOTAL_SECONDS / len(READERS)
        for seed in count(1):
            if time.monotonic() >= end:
                break
            try:
                read += sum(fuzz(reader, examples=100, seed=seed).values())
            except Exception as error:  # noqa: BLE001 Every reader's figure is wanted, also after one that failed.
                failed.append(f"{name}, seed {seed}: {type(error).__name__}: {error}"[:300])
                break
    minutes = (time.monotonic() - begin) / 60
    record_figure("fuzzing the readers", target="10 minutes without traceback or hang",
                  measured=f"{minutes:.1f} minutes, {read} files, {len(failed)} of {len(READERS)} readers failed")
    assert not failed, "\n".join(failed)
