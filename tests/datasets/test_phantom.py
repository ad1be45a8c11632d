"""The phantom: no modality alone tells the tumour's classes apart, all together do, and a seed decides everything."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from scipy.ndimage import binary_erosion
from scipy.ndimage import label as connected_components
from sklearn.metrics import f1_score
from sklearn.tree import DecisionTreeClassifier

from fuse4seg.datasets import phantom as phantom_module
from fuse4seg.datasets.dataset_json import channel_names, read_dataset_json
from fuse4seg.datasets.integrity import find_faults
from fuse4seg.datasets.phantom import MODALITIES, REFERENCE, Phantom, make_phantom, write_phantom_dataset
from fuse4seg.datasets.raw import list_cases, training_cases
from fuse4seg.errors import AmbiguousDatasetError, DatasetExistsError, OptionError

CLASSES = (1, 2, 3)
SMALL = (32, 40, 36)
TRAINING_SEEDS, TEST_SEEDS = (1, 2), (3, 4)


@cache
def full_size(seed: int) -> Phantom:
    return make_phantom(seed)


def brain_voxels(seeds: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Intensities (voxels, 4), z-scored per image as nnU-Net does, and classes (voxels)."""
    intensities, classes = [], []
    for made in map(full_size, seeds):
        brain = made.images[0] > 0
        inside = made.images[:, brain]
        intensities.append((inside.T - inside.mean(1)) / inside.std(1))
        classes.append(made.label[brain])
    return np.concatenate(intensities), np.concatenate(classes)


def highest_dice(intensity: np.ndarray, positive: np.ndarray, *, bins: int = 200) -> float:
    """Highest Dice that any rule on the intensity alone can reach, up to the width of the bins.

    The best set of bins takes them in the order of their share of positives, so it is enough to try each prefix.
    """
    edges = np.quantile(intensity, np.linspace(0, 1, bins + 1)[1:-1])
    bin_of = np.digitize(intensity, edges)
    total, hits = (np.bincount(bin_of, weights, bins) for weights in (None, positive))
    order = np.argsort(-hits / np.maximum(total, 1))
    return float((2 * hits[order].cumsum() / (total[order].cumsum() + positive.sum())).max())


def stacked_dice(modalities: tuple[str, ...]) -> np.ndarray:
    """Dice of the three classes in unseen heads, of a decision tree on the intensities of ``modalities``."""
    channels = [MODALITIES.index(modality) for modality in modalities]
    (training, classes), (test, expected) = brain_voxels(TRAINING_SEEDS), brain_voxels(TEST_SEEDS)
    tree = DecisionTreeClassifier(max_leaf_nodes=48, min_samples_leaf=50, random_state=0)
    tree.fit(training[:, channels], classes)
    return f1_score(expected, tree.predict(test[:, channels]), labels=CLASSES, average=None)


class TestContrasts:
    @pytest.mark.parametrize("modality", MODALITIES)
    def test_no_modality_alone_tells_more_than_one_class(self, modality: str) -> None:
        intensities, classes = brain_voxels(TRAINING_SEEDS)
        intensity = intensities[:, MODALITIES.index(modality)]
        reachable = sorted(highest_dice(intensity, classes == value) for value in CLASSES)
        assert reachable[0] < 0.5
        assert reachable[1] < 0.6

    @pytest.mark.parametrize("modalities", [MODALITIES, ("T1ce", "FLAIR")])
    def test_stacked_modalities_tell_all_classes(self, modalities: tuple[str, ...]) -> None:
        assert stacked_dice(modalities).min() > 0.8

    def test_oedema_on_t1_and_t1ce_shows_the_healthy_tissue_below(self) -> None:
        anatomy_seed = np.random.SeedSequence(1).spawn(1)[0]
        healthy, tissue = phantom_module._draw_anatomy(np.random.default_rng(anatomy_seed), SMALL)
        oedema = tissue == phantom_module.OEDEMA
        for modality in ("T1", "T1ce"):
            shown, sound = (phantom_module._contrast(modality, healthy, drawn) for drawn in (tissue, healthy))
            np.testing.assert_array_equal(shown[oedema], sound[oedema])


class TestMakePhantom:
    def test_is_the_same_bit_for_bit_for_the_same_seed(self) -> None:
        first, second = make_phantom(5, shape=SMALL, misalignment=1), make_phantom(5, shape=SMALL, misalignment=1)
        assert first.images.tobytes() == second.images.tobytes()
        assert first.label.tobytes() == second.label.tobytes()

    def test_varies_anatomy_tumour_and_scale_with_the_seed(self) -> None:
        first, second = full_size(1), full_size(2)
        assert (first.images[0] > 0).sum() != (second.images[0] > 0).sum()
        assert (first.label != second.label).sum() > 0.5 * (first.label > 0).sum()
        ratios = first.images.max((1, 2, 3)) / second.images.max((1, 2, 3))
        assert np.ptp(ratios) > 0.1

    @pytest.mark.parametrize("seed", range(1, 5))
    def test_is_positive_in_one_brain_and_zero_around_it(self, seed: int) -> None:
        made = full_size(seed)
        brain = made.images[0] > 0
        assert made.images.dtype == np.float32
        assert (made.images >= 0).all()
        assert all(np.array_equal(image > 0, brain) for image in made.images)
        assert connected_components(brain)[1] == 1
        assert brain[tuple(length // 2 for length in brain.shape)]
        assert not brain[0].any()
        assert 0.3 < brain.mean() < 0.5

    @pytest.mark.parametrize("seed", range(1, 5))
    def test_grows_a_tumour_with_all_classes_inside_the_brain(self, seed: int) -> None:
        made = full_size(seed)
        volumes = np.bincount(made.label.ravel(), minlength=4)
        assert made.label.dtype == np.uint8
        assert len(volumes) == 4
        assert volumes[1:].min() > 1000
        assert (made.images[0][made.label > 0] > 0).all()

    def test_encloses_the_core_in_the_rim(self) -> None:
        made = full_size(1)
        core = made.label == 1
        neighbours = np.unique(np.concatenate([made.label[np.roll(core, step, axis) & ~core] for axis in range(3)
                                               for step in (-1, 1)]))
        assert neighbours.tolist() == [3]

    def test_fits_any_shape_of_a_head(self) -> None:
        made = make_phantom(1, shape=(48, 40, 56), spacing=(3.0, 1.0, 1.0))
        assert made.images.shape == (4, 48, 40, 56)
        assert set(np.unique(made.label)) == {0, 1, 2, 3}
        assert made.spacing == (3.0, 1.0, 1.0)

    def test_moves_every_modality_but_the_reference(self) -> None:
        still, moved = (make_phantom(1, shape=SMALL, misalignment=amount) for amount in (0, 3))
        assert np.array_equal(still.label, moved.label)
        same = [np.array_equal(before, after) for before, after in zip(still.images, moved.images, strict=True)]
        assert same == [modality == REFERENCE for modality in MODALITIES]

    def test_has_one_intensity_per_tissue_without_noise_and_bias(self) -> None:
        made = make_phantom(1, noise=0, bias=0)
        inner_core = made.images[:, binary_erosion(made.label == 1, np.ones((3, 3, 3)), iterations=2)]
        np.testing.assert_allclose(inner_core.min(1), inner_core.max(1), rtol=1e-4)

    def test_has_noise_of_the_given_strength(self) -> None:
        """Far above the noise, a magnitude image's noise is Gaussian with the standard deviation of one part."""
        quiet, noisy = (make_phantom(1, shape=SMALL, noise=amount, bias=0) for amount in (0, 0.02))
        rim = quiet.label == 3
        scale = np.random.default_rng(np.random.SeedSequence(1).spawn(5)[2]).uniform(300, 1500)
        assert (noisy.images[1] - quiet.images[1])[rim].std() / scale == pytest.approx(0.02, rel=0.1)

    @pytest.mark.parametrize("arguments", [{"shape": (16, 80, 72)}, {"shape": (64, 80)}, {"noise": -1}, {"bias": -1},
                                           {"misalignment": -1}])
    def test_refuses_what_cannot_be_made(self, arguments: dict) -> None:
        with pytest.raises(OptionError):
            make_phantom(1, **arguments)


class TestWritePhantomDataset:
    def test_writes_a_sound_raw_dataset(self, tmp_path: Path) -> None:
        folder = write_phantom_dataset(tmp_path / "raw", training_cases=2, test_cases=1, shape=SMALL)
        content = read_dataset_json(folder)
        assert folder == tmp_path / "raw" / "Dataset999_Phantom"
        assert channel_names(content) == list(MODALITIES)
        assert list(training_cases(folder, content)) == ["phantom_000", "phantom_001"]
        assert list(list_cases(folder / "imagesTs", channels=MODALITIES, file_ending=".nii.gz")) == ["phantom_002"]
        assert [path.name for path in (folder / "labelsTs").iterdir()] == ["phantom_002.nii.gz"]
        assert find_faults(folder, processes=1) == []
        assert [path.name for path in (tmp_path / "raw").iterdir()] == [folder.name]

    def test_places_cases_obliquely_and_channels_on_the_grid_of_the_label(self, tmp_path: Path) -> None:
        folder = write_phantom_dataset(tmp_path, training_cases=1, test_cases=0, shape=SMALL)
        label, image = (SimpleITK.ReadImage(str(folder / name))
                        for name in ("labelsTr/phantom_000.nii.gz", "imagesTr/phantom_000_0003.nii.gz"))
        assert label.GetSize() == SMALL[::-1]
        assert np.abs(label.GetOrigin()).min() > 0
        assert np.linalg.det(np.reshape(label.GetDirection(), (3, 3))) == pytest.approx(1)
        assert 0.01 < np.abs(label.GetDirection()).min() < 0.5
        assert (image.GetOrigin(), image.GetDirection()) == (label.GetOrigin(), label.GetDirection())

    def test_writes_the_chosen_modalities_in_their_order(self, tmp_path: Path) -> None:
        arguments = {"training_cases": 1, "test_cases": 0, "shape": SMALL}
        whole = write_phantom_dataset(tmp_path / "whole", **arguments)
        chosen = write_phantom_dataset(tmp_path / "chosen", modalities=("FLAIR", "T1ce"), **arguments)
        assert channel_names(read_dataset_json(chosen)) == ["FLAIR", "T1ce"]
        assert (chosen / "imagesTr" / "phantom_000_0000.nii.gz").read_bytes() \
            == (whole / "imagesTr" / "phantom_000_0003.nii.gz").read_bytes()

    def test_makes_the_same_first_cases_however_many_follow(self, tmp_path: Path) -> None:
        few, many = (write_phantom_dataset(tmp_path / str(count), training_cases=count, test_cases=0, shape=SMALL)
                     for count in (1, 2))
        name = "imagesTr/phantom_000_0000.nii.gz"
        assert (few / name).read_bytes() == (many / name).read_bytes()

    def test_refuses_to_replace_a_dataset_unless_told_to(self, tmp_path: Path) -> None:
        arguments = {"test_cases": 0, "shape": SMALL}
        folder = write_phantom_dataset(tmp_path, training_cases=2, **arguments)
        with pytest.raises(DatasetExistsError, match="Dataset999_Phantom exists"):
            write_phantom_dataset(tmp_path, training_cases=1, **arguments)
        assert read_dataset_json(folder)["numTraining"] == 2
        write_phantom_dataset(tmp_path, training_cases=1, overwrite=True, **arguments)
        assert len(training_cases(folder, read_dataset_json(folder))) == 1
        assert [path.name for path in tmp_path.iterdir()] == [folder.name]

    def test_refuses_an_id_that_another_dataset_has(self, tmp_path: Path) -> None:
        (tmp_path / "Dataset999_Other").mkdir()
        with pytest.raises(AmbiguousDatasetError, match="Dataset999_Other"):
            write_phantom_dataset(tmp_path, training_cases=1, shape=SMALL, overwrite=True)

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_leaves_everything_as_it_was_when_it_was_stopped(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                           overwrite: bool) -> None:
        if overwrite:
            write_phantom_dataset(tmp_path, training_cases=1, test_cases=0, shape=SMALL)
        before = sorted(tmp_path.rglob("*"))

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(phantom_module, "_describe", stop)
        with pytest.raises(KeyboardInterrupt):
            write_phantom_dataset(tmp_path, training_cases=1, test_cases=1, shape=SMALL, overwrite=overwrite)
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize("arguments", [
        {"modalities": ("T1", "CT")}, {"modalities": ()}, {"modalities": ("T1", "T1")}, {"dataset_id": 0},
        {"dataset_id": 1000}, {"name": "a/b"}, {"name": ""},
        {"training_cases": 0}, {"test_cases": -1}, {"shape": (8, 8, 8)},
    ])
    def test_refuses_what_cannot_be_written_and_writes_nothing(self, tmp_path: Path, arguments: dict) -> None:
        with pytest.raises(OptionError):
            write_phantom_dataset(tmp_path, **arguments)
        assert list(tmp_path.iterdir()) == []
