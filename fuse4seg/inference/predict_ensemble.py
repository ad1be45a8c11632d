"""A folder of patients through several models, and the mean of what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fuse4seg.errors import FaultyCasesError
from fuse4seg.evaluation.postprocessing import Rule
from fuse4seg.farm.farm import Farm
from fuse4seg.inference.ensemble import ensemble_cases, require_same_classes
from fuse4seg.inference.export_case import NPZ, SEGMENTATIONS, Export, Wanted
from fuse4seg.inference.model import Model
from fuse4seg.inference.predict_folder import FirstStage, claim_exports, listed_cases, predict_folder
from fuse4seg.inference.preprocess_case import found_files
from fuse4seg.inference.run_record import RunRecord
from fuse4seg.own_outputs import require_apart


@dataclass(frozen=True)
class Member:
    """One model of an ensemble.

    Attributes:
        name: Of its folder in the output.
        model: From ``load_model``.
        folds: Names of its sets of weights.
        record: Of its cases, by which it is known which of them are predicted.
        previous: Of a cascade, as ``predict_folder`` takes it.
    """

    name: str
    model: Model
    folds: tuple[int | str, ...]
    record: RunRecord
    previous: FirstStage | Path | None = None


def predict_ensemble(members: Sequence[Member], images: Path | Sequence[Path], output: Path, *,
                     wanted: Wanted = SEGMENTATIONS, rules: tuple[Rule, ...] = (), allow_missing: bool = False,
                     record: RunRecord | None = None, part: tuple[int, int] = (0, 1),
                     processes: tuple[int | None, int | None] = (0, 0), farm: Farm | None = None,
                     overwrite: bool = False) -> list[Path]:
    """Predict every case by each member, and segment it by the mean of their probabilities; faulty cases are left out.

    Args:
        members: Two or more.
        images: As for ``predict_folder``.
        output: Gets CASE; and in a folder of each member all that ``predict_folder`` writes, with CASE.npz, by which an
            interrupted run goes on.
        wanted: Attention, panels and uncertainty of each member; probabilities of the ensemble.
        rules: Post-processing of the ensemble's segmentations; members' stay as they are.
        allow_missing: As for ``predict_folder``.
        record: Of the ensemble.
        part: As for ``predict_folder``.
        processes: As there.
        farm: As there.
        overwrite: As there.

    Returns:
        The ensemble's segmentations of this part.

    Raises:
        OptionError: Members segment different classes; else, and other errors, as ``predict_folder`` does.
    """
    first = members[0].model.description
    require_same_classes({member.name: member.model.description for member in members}, flag="-c")
    every = listed_cases(images, first.dataset_json)
    require_apart(output, {path.parent for case in every for path in found_files(case)}, overwrite=overwrite)
    export = Export(first, output, (), 0, Wanted(probabilities=wanted.probabilities), rules)
    of_members = replace(wanted, probabilities=(NPZ,))
    # What is in the way of the last member is said before the first one is predicted.
    own, *_ = [claim_exports([case.name for case in every], each, parts=part[1], overwrite=overwrite)
               for each in (export, *(_export(member, output, of_members) for member in members))]
    faults: dict[str, None] = {}
    for member in members:
        try:
            predict_folder(member.model, images, output / member.name, folds=member.folds, wanted=of_members, part=part,
                           allow_missing=allow_missing, record=member.record, processes=processes, previous=member.previous,
                           farm=farm, overwrite=overwrite)
        except FaultyCasesError as error:
            faults.update(dict.fromkeys(error.faults))
        member.model.network.cpu()  # makes room for the next
    names = [case.name for case in every[part[0]::part[1]]]
    done = [name for name in names if all(member.record.cases.get(name, {}).get("status") == "done" for member in members)]
    found = ensemble_cases(done, [output / member.name for member in members], export, own, record=record)
    faults.update(dict.fromkeys(map(str, found.values())))
    if faults:
        raise FaultyCasesError(faults)
    return [output / f"{name}{first.file_ending}" for name in names]


def _export(member: Member, output: Path, wanted: Wanted) -> Export:
    model = member.model
    return Export(model.description, output / member.name, member.folds, model.network.fusion.reference, wanted)
