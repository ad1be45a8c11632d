"""Writes the report of a folder of predictions: a list of its cases, and of each a page with pictures and a viewer."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuse4seg import __version__
from fuse4seg.case_faults import fault_of
from fuse4seg.errors import EmptyFolderError, FaultyCasesError, FolderNotFoundError
from fuse4seg.files import make_writable_folder, remove_stale
from fuse4seg.own_outputs import OwnOutputs, claim_outputs, require_apart
from fuse4seg.progress import progress
from fuse4seg.report.case_images import CaseImages, read_case
from fuse4seg.report.entries import FAULTS, calibration_of, case_entry, label_colours, label_names, record_of, suspects_of
from fuse4seg.report.fetch_viewer import SCRIPT
from fuse4seg.report.layers import colour_table, encoded_layers
from fuse4seg.report.page import (
    CASE_KEYS,
    CASES,
    DATA,
    INDEX,
    LICENCE,
    LIST_KEYS,
    PICTURES,
    RATING_KEYS,
    RATINGS,
    STATIC,
    STYLE,
    VIEWER,
    Pages,
    as_json,
    as_script,
    own_text,
    picture_url,
    safe_names,
    viewer_licence,
    viewer_script,
    write_text,
)
from fuse4seg.report.pictures import PLANES, Strip, strips, write_strip
from fuse4seg.report.prediction import PredictedCase, Prediction, read_prediction
from fuse4seg.report.ratings import Ratings, agreement_of, read_ratings, write_merged

log = logging.getLogger(__name__)

#: In a report, and of a folder of predictions the sub-folder that holds it.
PAGE, REPORT = "index.html", "report"
#: In a report of several raters.
MERGED = "ratings.csv"


@dataclass(frozen=True)
class Wish:
    """What a report is to hold.

    Attributes:
        images: Folder of the sources; None for that which run.json names.
        labels: Folder of true labels, or None.
        ratings: Files of raters.
        single_file: Everything in index.html.
        viewer: Also the volumes, for the interactive viewer.
    """

    images: Path | None = None
    labels: Path | None = None
    ratings: Sequence[Path] = ()
    single_file: bool = False
    viewer: bool = True


def write_report(folder: Path, output: Path | None = None, *, wish: Wish = Wish(), overwrite: bool = False) -> Path:
    """Write a report of a folder of predictions.

    Args:
        folder: That f4s_predict wrote, or fold_X/validation.
        output: Folder of the report; None for ``folder``/report.
        wish: What it is to hold.
        overwrite: Also replace files in ``output`` that this tool did not write.

    Returns:
        The page to open.

    Raises:
        OptionError: ``folder`` holds no prediction, or an option fits none of its cases.
        FaultyCasesError: Some cases' files cannot be read; the others are in the report, and these are named in it.
        FolderNotFoundError, EmptyFolderError, UnreadableRecordError, DatasetJsonError: The input.
        UnwritableFolderError: The output.
    """
    output = folder / REPORT if output is None else output
    prediction = read_prediction(folder, images=wish.images)
    references = {} if wish.labels is None else _references(wish.labels, prediction)
    ratings = [read_ratings(path, cases=[case.name for case in prediction.cases]) for path in wish.ratings]
    files = safe_names([case.name for case in prediction.cases])
    require_apart(output, {folder, *([wish.labels] if wish.labels else []), *_source_folders(prediction)}, overwrite=overwrite)
    own = claim_outputs(output, _names(files.values()), overwrite=overwrite)
    if prediction.without_sources:
        log.warning("%s: %s", folder, prediction.without_sources)
    if wish.viewer and viewer_script() is None:
        log.warning("this report has no interactive viewer, as NiiVue was not to be had when Fuse4Seg was installed: run "
                    "python -m fuse4seg.report.fetch_viewer and write the report again")
    report = _Report(prediction, make_writable_folder(output), own, wish, files, references, ratings)
    return report.write()


def _references(folder: Path, prediction: Prediction) -> dict[str, Path]:
    """True labels of the cases that have some."""
    if not folder.is_dir():
        raise FolderNotFoundError(folder)
    ending = prediction.dataset_json["file_ending"]
    found = {case.name: folder / f"{case.name}{ending}" for case in prediction.cases}
    there = {name: path for name, path in found.items() if path.is_file()}
    if not there:
        raise EmptyFolderError(folder, ending, mend="Give the folder of the true labels, CASE, of these cases.")
    return there


def _source_folders(prediction: Prediction) -> Iterable[Path]:
    return {path.parent for case in prediction.cases for path in case.sources.values()}


def _names(files: Iterable[str]) -> list[str]:
    """Everything that a report may consist of."""
    names = [PAGE, LICENCE, MERGED, *(f"{STATIC}/{name}" for name in (STYLE, RATINGS, INDEX, VIEWER, SCRIPT))]
    for file in files:
        names += [f"{CASES}/{file}.html", f"{DATA}/{file}.js", *(f"{PICTURES}/{file}_{plane}.png" for plane in PLANES)]
    return names


@dataclass
class _Report:
    """A report while it is written.

    Attributes:
        files: Names of the cases' files.
        shown: Entries of the cases that are in it.
        failed: Those of the cases that are not.
        faults: What kept cases, or some of their files, out of it.
    """

    prediction: Prediction
    output: Path
    own: OwnOutputs
    wish: Wish
    files: dict[str, str]
    references: dict[str, Path]
    ratings: list[Ratings]
    shown: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def has_viewer(self) -> bool:
        return self.wish.viewer and viewer_script() is not None

    def write(self) -> Path:
        remove_stale(self.output)
        self.own.note()
        for case in progress(self.prediction.cases, "reporting", unit="case"):
            self._add(case)
        self.shown.sort(key=lambda entry: (-(entry["score"] if isinstance(entry["score"], (int, float)) else -1), entry["name"]))
        identity = self.prediction.report_id
        pages = Pages(single=self.wish.single_file, nonce=_nonce(identity, self.shown))
        if self.ratings:
            write_merged(self.ratings, self.output / MERGED)
        if not self.wish.single_file:
            self._write_beside(pages)
        written = write_text(self.output / PAGE, pages.render(
            "index.html", report=self._described(pages, LIST_KEYS if not self.wish.single_file else (*LIST_KEYS, *CASE_KEYS)),
            cases=self.shown, failed=self.failed,
            agreement=agreement_of(self.ratings) if self.ratings else None))
        if self.faults:
            raise FaultyCasesError(self.faults)
        return written

    def _add(self, case: PredictedCase) -> None:
        if case.failure is not None:
            self.failed.append({"name": case.name, "failure": case.failure})
            return
        try:
            images = read_case(case, self.prediction, reference=self.references.get(case.name))
            entry = self._entry(case, images)
        except Exception as error:  # noqa: BLE001 (what is no fault of the case is raised again)
            fault = str(fault_of(error, case.name))
            self.failed.append({"name": case.name, "failure": fault})
            self.faults.append(fault)
            return
        self.shown.append(entry)

    def _entry(self, case: PredictedCase, images: CaseImages) -> dict[str, Any]:
        """What the pages say of a case, with its pictures and volumes written, or held where all goes into one file."""
        file, number = self.files[case.name], len(self.shown)
        single, made = self.wish.single_file, strips(images, suspects=suspects_of(case))
        entry = {**case_entry(case, images, self.prediction), "file": file, "id": f"case-{number}", "layers": None,
                 "link": f"#case-{number}" if single else f"{CASES}/{file}.html"}
        entry["strips"] = [self._strip(strip, file) for strip in made]
        if self.has_viewer:
            layers = encoded_layers(images)
            if single:
                entry["layers"] = as_json(layers)
            else:
                write_text(make_writable_folder(self.output / DATA) / f"{file}.js", as_script(entry["id"], layers))
        return entry

    def _strip(self, strip: Strip, file: str) -> dict[str, Any]:
        height, width = strip.pixels.shape[:2]
        shown = {"plane": strip.plane, "index": strip.index, "titles": strip.titles, "width": width, "height": height}
        if self.wish.single_file:
            return {**shown, "src": picture_url(strip)}
        name = f"{PICTURES}/{file}_{strip.plane}.png"
        make_writable_folder(self.output / PICTURES)
        write_strip(strip, self.output / name)
        return {**shown, "src": name}

    def _write_beside(self, pages: Pages) -> None:
        """Static files and the cases' pages."""
        static = make_writable_folder(self.output / STATIC)
        for name in (STYLE, RATINGS, INDEX, VIEWER):
            write_text(static / name, own_text(name))
        if self.has_viewer:
            write_text(static / SCRIPT, viewer_script())
            write_text(self.output / LICENCE, viewer_licence())
        folder, below = make_writable_folder(self.output / CASES), pages.under("../")
        report = self._described(pages, CASE_KEYS)
        for number, entry in enumerate(self.shown):
            case = {**entry, "strips": [{**strip, "src": f"../{strip['src']}"} for strip in entry["strips"]]}
            before, after = (self.shown[place] if 0 <= place < len(self.shown) else None for place in (number - 1, number + 1))
            write_text(folder / f"{entry['file']}.html", below.render("case.html", report=report, case=case, before=before,
                                                                      after=after))

    def _described(self, pages: Pages, keys: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """What all pages are told of the report."""
        prediction, dataset_json = self.prediction, self.prediction.dataset_json
        colours, names = label_colours(dataset_json), label_names(dataset_json)
        notices = [notice for notice in (prediction.without_sources, calibration_of(prediction)) if notice]
        sums = {name: total for case in prediction.cases for name, total in case.told.get("sources", {}).items()}
        count, failures = len(self.shown), f", {len(self.failed)} that could not be" if self.failed else ""
        return {"id": prediction.report_id, "nonce": pages.nonce, "version": __version__, "single": self.wish.single_file,
                "title": prediction.folder.absolute().name, "summary": f"{count} case{'s'[:count != 1]} shown{failures}.",
                "notices": notices, "key_help": [*RATING_KEYS, *keys], "classes": list(prediction.classes),
                "scored": bool(self.references), "fault_kinds": list(FAULTS.items()), "record": record_of(prediction),
                "checksums": sorted(sums.items()), "has_viewer": self.has_viewer, "licence": viewer_licence(),
                "legend": [{"name": names[value], "colour": colour} for value, colour in colours.items()],
                "colours": {"table": colour_table(colours), "names": names}}


def _nonce(identity: str, entries: Sequence[dict[str, Any]]) -> str:
    """What scripts of the report have: nobody can name a case so that its name holds what depends on it."""
    return hashlib.sha256(json.dumps([identity, [entry["name"] for entry in entries]]).encode()).hexdigest()[:24]
