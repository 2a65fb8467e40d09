"""Normalisation by rules: values, fingerprints, files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_partial.errors import VolumeError
from nnunet_partial.normalisation import (
    CHANNEL_NAME,
    Clip,
    Fingerprint,
    Percentiles,
    Rule,
    ZScore,
    fingerprint_clip,
    histogram,
    normalise_file,
    refuse_normalised,
    rule_from_json,
    rule_to_json,
)
from nnunet_partial.volumes import read_intensities

DTYPES = ["uint8", "int16", "uint16", "int32", "float32", "float64"]


def image(dtype: str, seed: int = 0) -> np.ndarray:
    """Zeros around a body, with negative voxels where the type has them, fractions where it can."""
    rng = np.random.default_rng(seed)
    array = rng.normal(100, 60, (9, 8, 7))
    array[[0, -1]] = 0
    array[4, 4, 2:4] = 0
    if dtype.startswith("u"):
        array = np.abs(array).clip(0, 255)
    return array.astype(dtype)


def sorted_percentile(values: list[float], percent: float) -> float:
    values = sorted(values)
    rank = percent / 100 * (len(values) - 1)
    low, high = values[math.floor(rank)], values[math.ceil(rank)]
    return low + (high - low) * (rank - math.floor(rank))


def check(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_clip(dtype: str, order: str) -> None:
    array = np.asarray(image(dtype), order=order)
    before = array.copy()
    expected = np.array([(min(max(float(v), 20.5), 150) - 20.5) / 129.5 for v in array.ravel()])
    check(Clip(20.5, 150).apply(array), expected.reshape(array.shape))
    np.testing.assert_array_equal(array, before)


def test_clip_of_extremes() -> None:
    """The whole range of int16, which float16 or an overflow would spoil; air becomes exactly 0."""
    array = np.array([[[-32768, -1024, -400, -399, 0, 399, 400, 32767]]], np.int16)
    found = Clip(-400, 400).apply(array)
    assert found.ravel().tolist() == [0, 0, 0, np.float32(1 / 800), 0.5, np.float32(799 / 800), 1, 1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_clip_with_mean_and_sd_is_nnunets_ct_normalisation(dtype: str) -> None:
    from nnunetv2.preprocessing.normalization.default_normalization_schemes import CTNormalization

    array = image(dtype)
    numbers = {"mean": 80.5, "std": 31.0, "percentile_00_5": 12.25, "percentile_99_5": 160.0}
    expected = CTNormalization(intensityproperties=numbers).run(array.astype(np.float32))
    check(Clip(12.25, 160, 80.5, 31).apply(array), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("low", "high"), [(1, 99), (0, 100), (0.5, 63.7)])
def test_percentiles(dtype: str, low: float, high: float) -> None:
    array = image(dtype)
    positive = [float(v) for v in array.ravel() if v > 0]
    assert len(positive) < array.size
    bottom, top = sorted_percentile(positive, low), sorted_percentile(positive, high)
    assert [bottom, top] == pytest.approx(np.percentile(np.float64(positive), [low, high]))
    expected = [(min(max(float(v), bottom), top) - bottom) / (top - bottom) for v in array.ravel()]
    found = Percentiles(low, high).apply(array)
    check(found, np.reshape(expected, array.shape))
    assert not found[array <= 0].any()
    assert (found.min(), found.max()) == (0, 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zscore_is_nnunets_over_its_nonzero_region(dtype: str) -> None:
    from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask
    from nnunetv2.preprocessing.normalization.default_normalization_schemes import ZScoreNormalization

    array = image(dtype)
    region = create_nonzero_mask(array[None])
    assert region[4, 4, 3]  # the hole in the body
    assert not region[0].any()
    values = [float(v) for v in array[region]]
    mean = math.fsum(values) / len(values)
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
    found = ZScore().apply(array)
    check(found, np.where(region, (array.astype(np.float64) - mean) / sd, 0))
    stock = ZScoreNormalization(use_mask_for_norm=True, intensityproperties={})
    np.testing.assert_allclose(found, stock.run(array.astype(np.float32), np.where(region, 0, -1)), atol=1e-4)


def test_zscore_of_a_2d_image_finds_no_holes_as_nnunet() -> None:
    from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask

    array = image("int16")[4]
    region = create_nonzero_mask(array[None, None])[0]
    assert not region[4, 3]
    values = array[region].astype(np.float64)
    check(ZScore().apply(array), np.where(region, (array - values.mean()) / values.std(), 0))
    np.testing.assert_array_equal(ZScore().apply(array), ZScore().apply(array[..., None])[..., 0])


def test_zscore_over_many_voxels() -> None:
    """More voxels than are summed at a time, far from zero."""
    array = np.random.default_rng(0).normal(5000, 3, (128, 128, 80)).astype(np.float32)
    values = array.astype(np.float64)
    check(ZScore().apply(array), (values - values.mean()) / values.std())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0, 7])
@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 3, 2), (5, 4)])
def test_images_without_contrast(dtype: str, value: int, shape: tuple[int, ...]) -> None:
    array = np.full(shape, value, dtype)
    check(Clip(-1, 7).apply(array), np.full(shape, (value + 1) / 8))
    check(Clip(-1, 7, 2, 4).apply(array), np.full(shape, (value - 2) / 4))
    for rule in (Percentiles(1, 99), ZScore()):
        found = rule.apply(array)
        check(found, np.zeros(shape))
        assert not found.any()


def test_contrast_only_where_a_rule_does_not_look() -> None:
    negative = -np.arange(24, dtype=np.int16).reshape(4, 3, 2)
    assert not Percentiles(1, 99).apply(negative).any()
    body = np.zeros((4, 3, 2), np.float32)
    body[1:3] = 0.1  # a mean of copies of 0.1 need not be 0.1
    assert not ZScore().apply(body).any()
    assert not Percentiles(1, 99).apply(body).any()


@pytest.mark.parametrize("dtype", ["int16", "uint8", "int32"])
def test_fingerprint_of_integers_is_exact(dtype: str) -> None:
    cases = [image(dtype, seed).ravel() for seed in range(4)] + [np.array([], dtype), np.array([90], dtype)]
    rule = fingerprint_clip([histogram(case) for case in cases])
    voxels = np.concatenate(cases).astype(np.float64)
    low, high = np.percentile(voxels, [0.5, 99.5])
    assert (rule.low, rule.high) == pytest.approx((low, high), rel=1e-12)
    assert (rule.mean, rule.sd) == pytest.approx((voxels.mean(), voxels.std()), rel=1e-12)


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (0.001, 0.0), (1e5, -3e6)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fingerprint_of_fractions_is_right_to_a_part_of_their_range(dtype: str, scale: float, offset: float) -> None:
    rng = np.random.default_rng(3)
    cases = [(rng.gamma(2, 100 * (seed + 1), 20_000) * scale + offset).astype(dtype) for seed in range(3)]
    rule = fingerprint_clip([histogram(case) for case in cases])
    voxels = np.concatenate(cases).astype(np.float64)
    tolerance = max(float(case.max()) - float(case.min()) for case in cases) / 32768
    low, high = np.percentile(voxels, [0.5, 99.5])
    found = [rule.low, rule.high, rule.mean, rule.sd]
    assert found == pytest.approx([low, high, voxels.mean(), voxels.std()], abs=tolerance)


def test_whole_numbers_stored_as_fractions_are_exact() -> None:
    rng = np.random.default_rng(4)
    voxels = rng.integers(-1024, 3072, 50_000)
    voxels[:2] = -1024, 31_000
    expected, counts = np.unique(voxels, return_counts=True)
    values, found = histogram(voxels.astype(np.float32))
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(found, counts)


def test_a_histogram_is_small() -> None:
    values, counts = histogram(np.random.default_rng(5).normal(0, 1, 1_000_000))
    assert values.size <= 32769
    assert counts.sum() == 1_000_000
    assert np.diff(values).min() > 0


@pytest.mark.parametrize(
    ("voxels", "message"),
    [
        ([], "no foreground voxels"),
        ([7], "nearly all foreground voxels have the intensity 7"),
        ([0] * 999 + [1], "nearly all foreground voxels have the intensity 0"),
    ],
)
def test_fingerprints_without_contrast(voxels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fingerprint_clip([histogram(np.array(voxels, np.int16))])
    with pytest.raises(ValueError, match="no foreground voxels"):
        fingerprint_clip([])


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ({"clip": [-400, 400]}, Clip(-400, 400)),
        ({"clip": [-1, 0.5], "mean": 0.1, "sd": 2}, Clip(-1, 0.5, 0.1, 2)),
        ({"percentiles": [1, 99]}, Percentiles(1, 99)),
        ("zscore", ZScore()),
        ("fingerprint", Fingerprint()),
    ],
)
def test_rules_as_json(content: object, rule: Rule | Fingerprint) -> None:
    assert rule_from_json(content) == rule
    assert rule_from_json(json.loads(json.dumps(rule_to_json(rule)))) == rule
    assert rule_to_json(rule) == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ct", "expected fingerprint, zscore"),
        (None, "expected fingerprint, zscore"),
        (["clip"], "expected fingerprint, zscore"),
        ({}, "expected fingerprint, zscore"),
        ({"clip": [1, 2], "percentiles": [1, 2]}, "expected fingerprint, zscore"),
        ({"clip": [1, 2], "mean": 1}, "expected fingerprint, zscore"),
        ({"clip": 400}, "clip: expected two numbers"),
        ({"clip": [1, 2, 3]}, "clip: expected two numbers"),
        ({"clip": ["1", "2"]}, "clip: expected two numbers"),
        ({"clip": [False, True]}, "clip: expected two numbers"),
        ({"clip": [0, math.inf]}, "clip: expected two numbers"),
        ({"clip": [math.nan, 1]}, "clip: expected two numbers"),
        ({"clip": [400, -400]}, "clip: expected two numbers, the lower one first"),
        ({"clip": [4, 4]}, "clip: expected two numbers, the lower one first"),
        ({"clip": [1, 2], "mean": 1, "sd": 0}, "an sd above 0"),
        ({"clip": [1, 2], "mean": None, "sd": 1}, "mean and sd: expected two numbers"),
        ({"percentiles": [99, 1]}, "percentiles: expected two numbers of 0 to 100, the lower one first"),
        ({"percentiles": [-1, 99]}, "of 0 to 100"),
        ({"percentiles": [1, 101]}, "of 0 to 100"),
    ],
)
def test_what_is_no_rule(content: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rule_from_json(content)


def test_half_a_pair_of_mean_and_sd() -> None:
    with pytest.raises(ValueError, match="both mean and sd or neither"):
        Clip(0, 1, mean=0.5)


def test_nnunet_leaves_the_channel_alone() -> None:
    from nnunetv2.preprocessing.normalization.default_normalization_schemes import NoNormalization
    from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme

    assert get_normalization_scheme(CHANNEL_NAME) is NoNormalization


def awkward_nifti(path: Path, kind: type = nib.Nifti1Image, shape: tuple[int, ...] = (6, 5, 4)) -> Path:
    """An image whose qform and sform differ, and whose numbers have no short form."""
    array = np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)
    source = kind(array, None)
    sform = np.array([[-0.7, 0.1, 0.02, 91.3], [0.1, 0.69, 0, -53.1], [0.03, 0, 3.3, 1 / 3], [0, 0, 0, 1]])
    source.set_sform(sform, code=2)
    source.set_qform(np.diag([0.7, 1 / 3, 3.3, 1.0]), code=1)
    source.header.set_xyzt_units("mm", "sec")
    source.header["cal_max"] = 400
    source.header["descrip"] = b"from a scanner"
    nib.save(source, path)
    return path


GEOMETRY_FIELDS = [
    *["dim", "pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "xyzt_units"],
    *["qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"],
]


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 5, 4, 1), (6, 5)])
def test_nifti_files_keep_their_geometry(tmp_path: Path, kind: type, ending: str, shape: tuple[int, ...]) -> None:
    source = awkward_nifti(tmp_path / f"a{ending}", kind, shape)
    normalise_file(source, tmp_path / "out" / f"a{ending}", Clip(-400, 400))
    before, after = nib.load(source), nib.load(tmp_path / "out" / f"a{ending}")
    assert type(after) is kind
    for field in GEOMETRY_FIELDS:
        assert after.header[field].tobytes() == before.header[field].tobytes(), field
    np.testing.assert_array_equal(after.affine, before.affine)
    assert after.get_data_dtype() == np.float32
    assert after.header["cal_max"] == 0
    expected = (np.clip(before.get_fdata(), -400, 400) + 400) / 800
    np.testing.assert_array_equal(np.asarray(after.dataobj), expected.astype(np.float32))


def test_scaled_nifti_files(tmp_path: Path) -> None:
    stored = np.arange(120, dtype=np.int16).reshape(6, 5, 4)
    source = nib.Nifti1Image(stored, np.eye(4))
    source.header.set_slope_inter(10, -1024)
    nib.save(source, tmp_path / "a.nii.gz")
    normalise_file(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", Clip(-400, 100))
    expected = (np.clip(stored * 10.0 - 1024, -400, 100) + 400) / 500
    np.testing.assert_allclose(nib.load(tmp_path / "b.nii.gz").get_fdata(), expected, atol=1e-7)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_other_files_keep_their_geometry(tmp_path: Path, ending: str, dimensions: int) -> None:
    array = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)[:dimensions]).astype(np.int16)
    source = sitk.GetImageFromArray(array)
    source.SetSpacing([0.7, 1 / 3, 3.3][:dimensions])
    source.SetOrigin([91.3, -53.1, 1 / 7][:dimensions])
    turned = np.array([[0, 1, 0], [0.6, 0, -0.8], [0.8, 0, 0.6]]) if dimensions == 3 else np.array([[0, 1], [-1, 0]])
    source.SetDirection(turned.ravel().astype(float).tolist())
    sitk.WriteImage(source, str(tmp_path / f"a{ending}"))
    normalise_file(tmp_path / f"a{ending}", tmp_path / f"b{ending}", Clip(-400, 400))
    before, after = (sitk.ReadImage(str(tmp_path / f"{name}{ending}")) for name in "ab")
    assert after.GetSpacing() == before.GetSpacing()
    assert after.GetOrigin() == before.GetOrigin()
    assert after.GetDirection() == before.GetDirection()
    assert after.GetPixelID() == sitk.sitkFloat32
    expected = ((np.clip(array, -400, 400) + 400) / 800).astype(np.float32)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(after), expected)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_no_image_is_normalised_twice(tmp_path: Path, ending: str) -> None:
    nifti = awkward_nifti(tmp_path / "a.nii.gz")
    source = tmp_path / f"source{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(read_intensities(nifti).T), str(source))
    target = tmp_path / f"target{ending}"
    refuse_normalised(source)
    normalise_file(source, target, ZScore())
    with pytest.raises(VolumeError, match=r"would be normalised twice; do something else$"):
        refuse_normalised(target, "do something else")
    with pytest.raises(VolumeError, match=rf"target{ending}: is normalised already, and would be normalised twice"):
        normalise_file(target, tmp_path / f"twice{ending}", ZScore())
    assert not (tmp_path / f"twice{ending}").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rule", [Clip(-1, 1), Percentiles(1, 99), ZScore()])
def test_voxels_that_are_no_numbers(tmp_path: Path, value: float, rule: Rule) -> None:
    array = np.ones((4, 3, 2), np.float32)
    array[0, :2, 0] = value
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "bad.nii.gz")
    with pytest.raises(VolumeError, match=r"bad.nii.gz: 2 voxels are NaN or infinite, expected numbers; replace them"):
        normalise_file(tmp_path / "bad.nii.gz", tmp_path / "out.nii.gz", rule)
    assert not (tmp_path / "out.nii.gz").exists()


def test_files_that_are_no_grey_images(tmp_path: Path) -> None:
    out = tmp_path / "out.mha"
    colour = sitk.GetImageFromArray(np.zeros((3, 4, 3), np.uint8), isVector=True)
    sitk.WriteImage(colour, str(tmp_path / "colour.mha"))
    with pytest.raises(VolumeError, match=r"colour.mha: expected one intensity a voxel, found shape \(4, 3, 3\)"):
        normalise_file(tmp_path / "colour.mha", out, ZScore())
    rgb = np.zeros((4, 3, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), tmp_path / "rgb.nii.gz")
    with pytest.raises(VolumeError, match=r"rgb.nii.gz: expected one intensity a voxel"):
        normalise_file(tmp_path / "rgb.nii.gz", out, ZScore())
    nib.save(nib.Nifti1Image(np.zeros((4, 3, 2, 5), np.uint8), np.eye(4)), tmp_path / "four.nii.gz")
    with pytest.raises(VolumeError, match=r"found shape \(4, 3, 2, 5\); store one channel a file"):
        normalise_file(tmp_path / "four.nii.gz", out, ZScore())
    for name in ("none.nii.gz", "none.mha"):
        with pytest.raises(VolumeError, match=rf"{name}: no such file"):
            normalise_file(tmp_path / name, out, ZScore())


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    source = awkward_nifti(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").mkdir()
    with pytest.raises(VolumeError, match=r"b.nii.gz: cannot be written"):
        normalise_file(source, tmp_path / "b.nii.gz", ZScore())
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 3, 2), np.float32)), str(tmp_path / "a.mha"))
    (tmp_path / "b.mha").mkdir()
    with pytest.raises(VolumeError, match=r"b.mha: cannot be written"):
        normalise_file(tmp_path / "a.mha", tmp_path / "b.mha", ZScore())
    assert not list(tmp_path.glob(".*"))
