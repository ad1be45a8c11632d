"""Plans as preprocessing needs them: nnU-Net's classes found, entries there, before the first file is touched."""

from __future__ import annotations

from pathlib import Path

from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fuse4seg.errors import PlansNotFoundError, first_line
from fuse4seg.plans import read_plans


def usable_plans(path: Path) -> PlansManager:
    """Plans of a dataset, all of whose configurations can be preprocessed as far as can be told from the file.

    Raises:
        PlansNotFoundError: They are missing, cannot be read, or lack something.
    """
    plans = PlansManager(read_plans(path))
    try:
        for name in plans.available_configurations:
            _require_usable(plans, name)
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise PlansNotFoundError(path, f"cannot be used ({first_line(error, kind=True)})") from error
    return plans


def _require_usable(plans: PlansManager, name: str) -> None:
    configuration = plans.get_configuration(name)
    preprocessor = configuration.preprocessor_class
    if not (isinstance(preprocessor, type) and issubclass(preprocessor, DefaultPreprocessor)):
        raise ValueError(f"{name} names the preprocessor {configuration.preprocessor_name!r}, which nnU-Net does not have")
    if not all(isinstance(step, (int, float)) and step > 0 for step in configuration.spacing):
        raise ValueError(f"{name} has the spacing {configuration.spacing}")
    # Each is looked up as it is asked for.
    entries = (configuration.resampling_fn_data, configuration.resampling_fn_seg, configuration.data_identifier,
               configuration.normalization_schemes, configuration.use_mask_for_norm)
    if not all(entries):
        raise ValueError(f"an entry of {name} is empty")
