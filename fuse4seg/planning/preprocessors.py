"""nnU-Net's preprocessors as we run them: for several configurations at once, and for cases without a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from fuse4seg.datasets.images import given_to
from fuse4seg.datasets.nifti import header_of
from fuse4seg.datasets.presence import PRESENT, with_absent

#: What decides over the result in a configuration, beside its spacing.
DECISIVE = ("normalization_schemes", "use_mask_for_norm", "resampling_fn_data", "resampling_fn_data_kwargs",
            "resampling_fn_seg", "resampling_fn_seg_kwargs")


class Case(NamedTuple):
    """A preprocessed case.

    Attributes:
        channels: Shape (C, Z, Y, X).
        segmentation: Shape (1, Z, Y, X).
        properties: Where it comes from; ``spacing`` is that of the image in mm, in the image's order of axes.
    """

    channels: np.ndarray
    segmentation: np.ndarray
    properties: dict[str, Any]


class NotStoredError(Exception):
    """A preprocessed case could not be written, and why; its one argument travels between processes."""


class OnePassPreprocessor(DefaultPreprocessor):
    """nnU-Net's run over the cases, for several configurations: what they share of a case is computed once.

    2D and 3D configurations mostly share all of it, and differ in the blocks in which it is stored.

    Args:
        preprocessor: Preprocesses a case for one configuration.
        further: Configurations beside the one that runs, by the folders of their data, which exist.
    """

    def __init__(self, preprocessor: DefaultPreprocessor, further: Mapping[Path, ConfigurationManager]) -> None:
        super().__init__(verbose=False)
        self.preprocessor, self.further = preprocessor, dict(further)
        self._done: list[tuple[ConfigurationManager, Case]] = []

    def run_case_save(self, output_filename_truncated: str, image_files: Sequence[str | None], seg_file: str | None,
                      plans_manager: PlansManager, configuration_manager: ConfigurationManager,
                      dataset_json: dict[str, Any] | str) -> None:
        """Preprocess a case for every configuration, each into its folder; arguments as nnU-Net gives them.

        Of a channel that the case lacks there is None in place of the file. It is stored as zeros, and its absence in the
        properties.

        Raises:
            NotStoredError: The operating system refused to write.
        """
        first = Path(output_filename_truncated)
        folders = {first.parent: configuration_manager, **self.further}
        for folder, configuration in folders.items():
            arguments = image_files, seg_file, plans_manager, configuration, dataset_json
            self.run_case(*arguments)  # what fails here is a matter of the images
            try:
                super().run_case_save(str(folder / first.name), *arguments)
            except (OSError, RuntimeError) as error:
                raise NotStoredError(error.strerror if isinstance(error, OSError) else
                                     "blosc2 could not write, as on a full disk") from error
        self._done.clear()

    def run_case(self, image_files: Sequence[str | None], seg_file: str | None, plans_manager: PlansManager,
                 configuration_manager: ConfigurationManager, dataset_json: dict[str, Any] | str) -> Case:
        """Preprocess a case, unless it was already, for a configuration that asks for the same."""
        for configuration, case in self._done:
            if _alike(configuration, configuration_manager, case, plans_manager):
                return case
        reader, labels = plans_manager.image_reader_writer_class, [] if seg_file is None else [Path(seg_file)]
        there = [Path(file) for file in image_files if file is not None]
        with given_to(reader, there) as images, given_to(reader, labels, labels=True) as label:
            present = [file is not None for file in image_files]
            # A picture in colour is one file of several channels.
            run = self.preprocessor.run_case if all(present) else partial(self._run_lacking, present)
            case = Case(*run(list(map(str, images)), str(label[0]) if label else None, plans_manager, configuration_manager,
                             dataset_json))
        case.properties.update(header_of(there[0]))
        self._done.append((configuration_manager, case))
        return case

    def _run_lacking(self, present: Sequence[bool], image_files: Sequence[str], seg_file: str | None, plans: PlansManager,
                     configuration: ConfigurationManager, dataset_json: dict[str, Any] | str) -> Case:
        """The same of a case that lacks channels: zeros leave crop and mask to the others, and are zeros again afterwards."""
        reader = plans.image_reader_writer_class()
        voxels, properties = reader.read_images(image_files)
        label = None if seg_file is None else reader.read_seg(seg_file)[0]
        case = Case(*self.preprocessor.run_case_npy(with_absent(voxels, present), label, properties, plans, configuration,
                                                    dataset_json))
        case.channels[[not there for there in present]] = 0
        case.properties[PRESENT] = present
        return case


def _alike(first: ConfigurationManager, second: ConfigurationManager, case: Case, plans: PlansManager) -> bool:
    """Whether both configurations make the same of a case."""
    along_first_axis = case.properties["spacing"][plans.transpose_forward[0]]
    # 2D configurations leave the slices where they are.
    spacings = [[along_first_axis, *one.spacing][-3:] for one in (first, second)]
    return np.array_equal(*spacings) and all(first.configuration[key] == second.configuration[key] for key in DECISIVE)


class UnlabelledPreprocessor(DefaultPreprocessor):
    """nnU-Net's preprocessor, which stores what its data loader asks of a training case: a segmentation and where classes lie."""

    def run_case_npy(self, data: np.ndarray, seg: np.ndarray | None, properties: dict[str, Any], plans_manager: PlansManager,
                     configuration_manager: ConfigurationManager,
                     dataset_json: dict[str, Any] | str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Preprocess one case.

        Args:
            data: Channels, shape (C, Z, Y, X).
            seg: nnU-Net's label; there is none.
            properties: From nnU-Net's reader.
            plans_manager: The plans.
            configuration_manager: Their configuration.
            dataset_json: The dataset's description.

        Returns:
            Channels (C, Z, Y, X), a segmentation (1, Z, Y, X) of 0 inside and -1 outside the nonzero mask, and properties with
            the locations of no class, so that patches are drawn anywhere.
        """
        channels, segmentation, properties = super().run_case_npy(data, None, properties, plans_manager, configuration_manager,
                                                                  dataset_json)
        return channels, segmentation, {**properties, "class_locations": {}}
