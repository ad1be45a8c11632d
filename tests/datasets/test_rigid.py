"""Rigid registration: it finds movements that were made, tells a movement from none, and says so when it can tell nothing."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation
from sklearn.metrics import mutual_info_score

from fuse4seg.datasets.phantom import make_phantom
from fuse4seg.datasets.rigid import CLOSE, QUICK, moved, register, small_copy, starts_for

#: Degrees of the grid, which is tilted like a patient.
TILT = Rotation.from_euler("xyz", (5, -8, 3), degrees=True).as_matrix()


@pytest.fixture(scope="module")
def pair() -> tuple[sitk.Image, sitk.Image]:
    """T1ce and FLAIR of one head, on one tilted grid of uneven voxels."""
    phantom = make_phantom(0, shape=(48, 64, 56))
    return tuple(placed(phantom.images[channel]) for channel in (1, 3))


def placed(voxels: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((1.0, 1.0, 1.5))
    image.SetOrigin((-40.0, 25.0, 7.0))
    image.SetDirection(TILT.ravel().tolist())
    return image


def movement(image: sitk.Image, shift: tuple[float, ...], turn: float) -> sitk.Euler3DTransform:
    """By so many millimetres along the image's axes, and degrees about its z axis, both at its middle."""
    transform = sitk.Euler3DTransform()
    transform.SetCenter(image.TransformContinuousIndexToPhysicalPoint([(extent - 1) / 2 for extent in image.GetSize()]))
    transform.SetMatrix((TILT @ Rotation.from_euler("z", turn, degrees=True).as_matrix() @ TILT.T).ravel().tolist())
    transform.SetTranslation((TILT @ shift).tolist())
    return transform


class TestRegister:
    @pytest.mark.parametrize(("shift", "turn"), [((3.0, 0.0, 0.0), 0.0), ((0.0, -2.0, 4.0), 0.0), ((1.0, 2.0, 0.0), 5.0)])
    def test_finds_a_movement_that_was_made(self, pair: tuple[sitk.Image, sitk.Image], shift: tuple[float, ...],
                                            turn: float) -> None:
        """To half a voxel and a degree; what a transform fetches from p + shift lies shift nearer."""
        reference, image = pair
        true = movement(image, shift, turn)
        displaced = moved(image, image, true)
        found = register(*(small_copy(one, CLOSE) for one in (reference, displaced)), detail=CLOSE)
        back = true.GetInverse()
        middle = true.GetCenter()
        expected = TILT.T @ (np.array(back.TransformPoint(middle)) - middle)
        np.testing.assert_allclose(found.shift, expected, atol=0.6)
        assert found.turn == pytest.approx(turn, abs=1.0)
        assert found.information[1] > 1.1 * found.information[0]

    def test_finds_none_where_none_was_made(self, pair: tuple[sitk.Image, sitk.Image]) -> None:
        found = register(*(small_copy(one, QUICK) for one in pair))
        assert found.off < 1
        assert found.information[0] <= found.information[1] < 1.03 * found.information[0]

    def test_off_is_how_far_points_move(self, pair: tuple[sitk.Image, sitk.Image]) -> None:
        """In voxels: of a turn alone, the root mean square of the chords about its axis over the head."""
        reference, image = pair
        displaced = moved(image, image, movement(image, (0.0, 0.0, 0.0), 6.0))
        small = small_copy(reference, CLOSE)
        found = register(small, small_copy(displaced, CLOSE), detail=CLOSE)
        body = np.argwhere(sitk.GetArrayFromImage(reference) != 0)[:, 1:].astype(float)
        radii = np.linalg.norm(body - (body.min(axis=0) + body.max(axis=0)) / 2, axis=1)
        assert found.off == pytest.approx(2 * np.sqrt((radii ** 2).mean()) * np.sin(np.deg2rad(found.turn / 2)), rel=0.15)

    def test_information_is_that_of_the_joint_histogram(self) -> None:
        """Against scikit-learn's of the same bins, but for ITK's smooth Parzen windows; near 0 of independent noise."""
        phantom = make_phantom(1, shape=(40, 48, 44))
        first, second = phantom.images[[0, 2]]
        noise = np.random.default_rng(0).permutation(second.ravel()).reshape(second.shape)
        found = [register(*(small_copy(sitk.GetImageFromArray(one), CLOSE) for one in (first, other)), detail=CLOSE)
                 for other in (second, noise)]
        clipped = [np.clip(one, 0, np.percentile(one[one != 0], 99)) for one in (first, second)]
        bins = [np.digitize(one.ravel(), np.linspace(0, one.max(), 33)[1:-1]) for one in clipped]
        assert found[0].information[0] == pytest.approx(mutual_info_score(*bins), rel=0.2)
        assert found[1].information[0] < 0.1 * found[0].information[0]

    def test_is_the_same_every_time(self, pair: tuple[sitk.Image, sitk.Image]) -> None:
        first, second = (register(*(small_copy(one, QUICK) for one in pair)) for _ in range(2))
        assert (first.shift, first.turn, first.information) == (second.shift, second.turn, second.information)

    def test_moves_a_picture_within_its_plane(self) -> None:
        phantom = make_phantom(0, shape=(40, 96, 96))
        first, second = phantom.images[1, 20], np.roll(phantom.images[3, 20], (3, -2), axis=(0, 1))
        pictures = [small_copy(sitk.GetImageFromArray(one), QUICK) for one in (first, second)]
        volumes = [small_copy(sitk.GetImageFromArray(one[None]), QUICK) for one in (first, second)]
        for reference, image in (pictures, volumes):
            found = register(reference, image)
            np.testing.assert_allclose(found.shift, (-2, 3, 0), atol=0.5)

    def test_leaves_alone_what_few_slices_cannot_tell(self) -> None:
        phantom = make_phantom(0, shape=(40, 64, 64))
        first, second = phantom.images[1, 18:22], np.roll(phantom.images[3, 18:22], 3, axis=2)
        found = register(*(small_copy(sitk.GetImageFromArray(one), QUICK) for one in (first, second)))
        np.testing.assert_allclose(found.shift, (3, 0, 0), atol=0.5)
        assert found.shift[2] == 0

    def test_finds_what_lies_beside_it_from_the_middle(self, pair: tuple[sitk.Image, sitk.Image]) -> None:
        """40 mm off, more than half of the head."""
        reference, image = pair
        far = sitk.Image(image)
        far.SetOrigin((np.array(image.GetOrigin()) + TILT @ (40.0, 0.0, 0.0)).tolist())
        copies = [small_copy(one, CLOSE) for one in (reference, far)]
        found = register(*copies, detail=CLOSE, starts=starts_for(*copies))
        np.testing.assert_allclose(found.shift, (40, 0, 0), atol=0.6)

    def test_tells_nothing_of_an_empty_image(self, pair: tuple[sitk.Image, sitk.Image]) -> None:
        reference, _ = pair
        empty = sitk.Image(reference.GetSize(), sitk.sitkFloat32)
        empty.CopyInformation(reference)
        assert register(small_copy(reference, QUICK), small_copy(empty, QUICK)) is None
        assert register(small_copy(empty, QUICK), small_copy(reference, QUICK)) is None

    def test_tells_nothing_where_images_do_not_overlap(self, pair: tuple[sitk.Image, sitk.Image]) -> None:
        reference, image = pair
        far = sitk.Image(image)
        far.SetOrigin((1000.0, 0.0, 0.0))
        assert register(small_copy(reference, QUICK), small_copy(far, QUICK)) is None


class TestMoved:
    def test_shifts_by_whole_voxels_without_loss(self) -> None:
        voxels = np.random.default_rng(0).integers(-1000, 1000, (6, 7, 8), dtype=np.int16)
        image = sitk.GetImageFromArray(voxels)
        shifted = moved(image, image, sitk.TranslationTransform(3, (2.0, 0.0, -1.0)))
        expected = np.full_like(voxels, voxels.min())
        expected[1:, :, :-2] = voxels[:-1, :, 2:]
        np.testing.assert_array_equal(sitk.GetArrayFromImage(shifted), expected)
        assert shifted.GetPixelID() == image.GetPixelID()

    def test_rounds_whole_numbers(self) -> None:
        image = sitk.GetImageFromArray(np.array([[0, 3, 0, 0]] * 2, np.uint8))
        shifted = moved(image, image, sitk.TranslationTransform(2, (0.4, 0.0)))
        assert sitk.GetArrayFromImage(shifted)[0].tolist() == [1, 2, 0, 0]

    def test_keeps_colours(self) -> None:
        colours = np.random.default_rng(0).integers(0, 255, (5, 6, 3), dtype=np.uint8)
        image = sitk.GetImageFromArray(colours, isVector=True)
        shifted = moved(image, image, sitk.TranslationTransform(2, (1.0, 0.0)))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(shifted)[:, :-1], colours[:, 1:])
        assert (sitk.GetArrayFromImage(shifted)[:, -1] == 0).all()
