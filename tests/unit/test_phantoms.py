"""The built-in phantoms: anatomy, geometry, and the datasets written from them."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from nnunet_partial.errors import PartialError
from nnunet_partial.phantoms import (
    ATOMS,
    NOMINAL_HU,
    PROTOCOLS,
    Protocol,
    make_phantom,
    write_source,
    write_test_cases,
)

SEEDS = (0, 1, 7, 42)
SMALL = {"shape": (36, 28, 24), "spacing_mm": (9.0, 9.0, 9.0)}


@pytest.fixture(scope="module", params=SEEDS)
def phantom(request):
    return make_phantom(request.param)


def world_centroid(phantom, atom):
    voxels = np.argwhere(phantom.atoms == ATOMS.index(atom))
    return phantom.affine[:3, :3] @ voxels.mean(axis=0) + phantom.affine[:3, 3]


def test_same_seed_same_volume_other_seed_other_volume():
    first, second, other = make_phantom(3), make_phantom(3), make_phantom(4)
    assert np.array_equal(first.hu, second.hu)
    assert np.array_equal(first.atoms, second.atoms)
    assert np.array_equal(first.affine, second.affine)
    assert (first.atoms != other.atoms).mean() > 0.02


def test_types_ranges_and_presence(phantom):
    assert phantom.hu.dtype == np.int16 and phantom.atoms.dtype == np.uint8 and phantom.affine.dtype == np.float64
    assert phantom.hu.shape == phantom.atoms.shape == (72, 56, 48)
    assert phantom.hu.min() >= -1024 and phantom.hu.max() <= 1500
    counts = np.bincount(phantom.atoms.ravel(), minlength=len(ATOMS))
    assert len(counts) == len(ATOMS)
    for atom, count in zip(ATOMS, counts, strict=True):
        assert count >= (40 if atom == "liver_tumour" else 60), atom


def test_organs_lie_where_they_belong(phantom):
    x = {atom: world_centroid(phantom, atom)[0] for atom in ATOMS[1:]}
    assert x["kidney_left"] < x["aorta"] < x["kidney_right"]
    assert x["spleen"] < x["aorta"] < x["liver_tissue"]
    assert world_centroid(phantom, "liver_tissue")[2] > world_centroid(phantom, "kidney_right")[2]
    assert world_centroid(phantom, "pancreas")[1] > world_centroid(phantom, "aorta")[1]


def test_tumours_lie_inside_the_liver(phantom):
    tumour = phantom.atoms == ATOMS.index("liver_tumour")
    rim = ndimage.binary_dilation(tumour) & ~tumour
    assert (phantom.atoms[rim] == ATOMS.index("liver_tissue")).mean() > 0.95


def test_organ_hu_is_near_the_nominal_one():
    phantom = make_phantom(5, spacing_mm=(2.25, 4.5, 4.5), shape=(144, 56, 48))
    for atom, nominal in NOMINAL_HU.items():
        core = ndimage.binary_erosion(phantom.atoms == ATOMS.index(atom))
        # The median, because a kidney's pelvis and blurred edges pull the mean.
        assert np.median(phantom.hu[core]) == pytest.approx(nominal, abs=16), atom


def test_noise_has_the_asked_standard_deviation():
    noisy, clean = make_phantom(6, noise_hu=20.0), make_phantom(6, noise_hu=0.0)
    difference = noisy.hu.astype(float) - clean.hu
    unclipped = clean.hu > -900
    assert difference[unclipped].std() == pytest.approx(20.0, rel=0.03)
    assert np.array_equal(noisy.atoms, clean.atoms)


def test_contrast_scales_the_distance_from_soft_tissue():
    def liver_above_soft_tissue(contrast):
        phantom = make_phantom(8, contrast=contrast, noise_hu=0.0)
        core = ndimage.binary_erosion(phantom.atoms == ATOMS.index("liver_tissue"), iterations=3)
        return np.median(phantom.hu[core]) - 50

    assert liver_above_soft_tissue(0.5) == pytest.approx(0.5 * liver_above_soft_tissue(1.0), abs=1)


@pytest.mark.parametrize("spacing", [(4.5, 4.5, 4.5), (9.0, 6.0, 7.5)])
def test_affine_holds_spacing_and_a_rotation_by_the_tilt(spacing):
    facings = set()
    for seed in range(12):
        affine = make_phantom(seed, shape=(16, 16, 16), spacing_mm=spacing, tilt_degrees=6.0).affine
        assert np.linalg.norm(affine[:3, :3], axis=0) == pytest.approx(spacing)
        turn = affine[:3, :3] / spacing
        assert np.allclose(turn @ turn.T, np.eye(3))
        assert np.linalg.det(turn) == pytest.approx(1.0)
        facing = np.sign(turn[0, 0])
        # A rotation by t has trace 1 + 2 cos t, once the flip of axes 0 and 1 is undone.
        assert np.trace(turn * [facing, facing, 1]) == pytest.approx(1 + 2 * np.cos(np.deg2rad(6)))
        facings.add(facing)
    assert facings == {-1.0, 1.0}


def test_drawn_tilt_stays_within_eight_degrees():
    for seed in range(12):
        affine = make_phantom(seed, **SMALL).affine
        turn = np.abs(np.diag(affine)[:3]) / 9
        assert turn.sum() >= 1 + 2 * np.cos(np.deg2rad(8)) - 1e-9


def test_coarser_spacing_shows_the_same_patient():
    fine, coarse = make_phantom(9), make_phantom(9, **SMALL)
    for atom in ("liver_tissue", "spleen", "kidney_left", "kidney_right"):
        volumes = [(p.atoms == ATOMS.index(atom)).sum() * abs(np.linalg.det(p.affine[:3, :3])) for p in (fine, coarse)]
        assert volumes[1] == pytest.approx(volumes[0], rel=0.12), atom
    centre_of = [p.affine[:3, :3] @ ((np.array(p.hu.shape) - 1) / 2) + p.affine[:3, 3] for p in (fine, coarse)]
    offsets = [world_centroid(p, "spleen") - centre for p, centre in zip((fine, coarse), centre_of, strict=True)]
    assert np.linalg.norm(offsets[0] - offsets[1]) < 4


def test_number_of_tumours_can_be_chosen():
    without, two = make_phantom(10, tumours=0), make_phantom(10, tumours=2)
    tumour = ATOMS.index("liver_tumour")
    assert not (without.atoms == tumour).any()
    assert ndimage.label(two.atoms == tumour)[1] == 2
    assert np.array_equal(without.atoms == ATOMS.index("spleen"), two.atoms == ATOMS.index("spleen"))


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda protocol: protocol.name)
def test_protocol_maps_atoms_voxel_by_voxel(protocol):
    atoms = make_phantom(11, **SMALL).atoms
    labels = protocol.annotate(atoms)
    expected = np.zeros(atoms.shape, dtype=int)
    for index, atom in enumerate(ATOMS):
        for value, covered in enumerate(protocol.labels.values(), start=1):
            if atom in covered:
                expected[atoms == index] = value
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, expected)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"gut": ("bowel",)}, "found 'bowel'"),
        ({"liver": ("liver_tissue",), "all": ("liver_tissue", "spleen")}, "under 'liver' and 'all'"),
        ({"nothing": ()}, "at least one atom"),
        ({"background": ("spleen",)}, "leave it out"),
    ],
)
def test_contradictory_protocol_is_refused(labels, message):
    with pytest.raises(PartialError, match=message):
        Protocol("broken", labels)


@pytest.mark.parametrize(
    "options",
    [{"shape": (4, 40, 40)}, {"spacing_mm": (1.0, 0.0, 1.0)}, {"tumours": -1}, {"noise_hu": -1.0}],
)
def test_phantom_option_out_of_range_is_refused(options):
    with pytest.raises(PartialError, match=f"phantom {next(iter(options))}"):
        make_phantom(0, **options)


def test_source_is_a_raw_nnunet_dataset(tmp_path):
    folder = write_source(tmp_path, 7, PROTOCOLS["organs"], [0, 12], **SMALL)
    assert folder == tmp_path / "Dataset007_PhantomOrgans"
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == [
        "dataset.json",
        "imagesTr/phantom_0000_0000.nii.gz",
        "imagesTr/phantom_0012_0000.nii.gz",
        "labelsTr/phantom_0000.nii.gz",
        "labelsTr/phantom_0012.nii.gz",
    ]
    assert json.loads((folder / "dataset.json").read_text()) == {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "spleen": 1, "liver": 2, "pancreas": 3},
        "numTraining": 2,
        "overwrite_image_reader_writer": "NibabelIOWithReorient",
        "file_ending": ".nii.gz",
    }
    phantom = make_phantom(12, **SMALL)
    image = nib.load(folder / "imagesTr/phantom_0012_0000.nii.gz")
    labels = nib.load(folder / "labelsTr/phantom_0012.nii.gz")
    assert image.get_data_dtype() == np.int16 and labels.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(image.dataobj), phantom.hu)
    assert np.array_equal(np.asarray(labels.dataobj), PROTOCOLS["organs"].annotate(phantom.atoms))


def test_unlabelled_source_has_no_label_folder(tmp_path):
    folder = write_source(tmp_path, 8, PROTOCOLS["unlabelled"], [1], name="Scans", **SMALL)
    assert folder.name == "Dataset008_Scans"
    assert not (folder / "labelsTr").exists()
    assert json.loads((folder / "dataset.json").read_text())["labels"] == {"background": 0}


@pytest.mark.parametrize(("number", "seeds"), [(0, [1]), (1000, [1]), (5, []), (5, [1, 1]), (5, [-1])])
def test_source_with_bad_number_or_seeds_is_refused(tmp_path, number, seeds):
    with pytest.raises(PartialError, match="expected"):
        write_source(tmp_path, number, PROTOCOLS["aorta"], seeds, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_simpleitk_and_nibabel_read_the_same_geometry(tmp_path):
    facings = set()
    for seed in range(6):
        path = write_source(tmp_path, 9, PROTOCOLS["aorta"], [seed], **SMALL) / f"labelsTr/phantom_{seed:04d}.nii.gz"
        ours, by_nibabel, by_itk = (
            make_phantom(seed, **SMALL).affine,
            nib.load(path),
            sitk.ReadImage(str(path)),
        )
        assert by_itk.GetSpacing() == pytest.approx((9, 9, 9), abs=1e-4)
        assert np.allclose(by_nibabel.get_qform(), by_nibabel.get_sform(), atol=1e-3)
        for index in ((0, 0, 0), (35, 27, 23), (3, 20, 11)):
            truth = ours @ [*index, 1]
            left_posterior = np.array(by_itk.TransformIndexToPhysicalPoint(index))
            assert np.allclose(by_nibabel.affine @ [*index, 1], truth, atol=1e-3)
            assert np.allclose(left_posterior * [-1, -1, 1], truth[:3], atol=1e-2)
        array = sitk.GetArrayFromImage(by_itk).transpose(2, 1, 0)
        assert np.array_equal(array, np.asarray(by_nibabel.dataobj))
        facings.add(np.sign(ours[0, 0]))
    assert facings == {-1.0, 1.0}


def test_test_cases_and_their_labels(tmp_path):
    folder = tmp_path / "test"
    write_test_cases(folder, [100], PROTOCOLS["everything"], **SMALL)
    labels = nib.load(folder / "labelsTs/phantom_0100.nii.gz")
    assert np.array_equal(np.asarray(labels.dataobj), make_phantom(100, **SMALL).atoms)
    assert (folder / "imagesTs/phantom_0100_0000.nii.gz").exists()
    content = json.loads((folder / "dataset.json").read_text())
    assert content["labels"] == {atom: value for value, atom in enumerate(ATOMS)}
    write_test_cases(folder, [101], PROTOCOLS["everything"], **SMALL)
    assert len(list((folder / "labelsTs").iterdir())) == 2
    with pytest.raises(PartialError, match="choose another folder"):
        write_test_cases(folder, [102], PROTOCOLS["aorta"], **SMALL)
    with pytest.raises(PartialError, match="at least one label"):
        write_test_cases(tmp_path / "none", [102], PROTOCOLS["unlabelled"], **SMALL)
