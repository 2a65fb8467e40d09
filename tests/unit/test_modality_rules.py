"""Normalisation by modality after reading: to the bit what nnUNetv2_partial_normalize writes into files."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_partial.errors import LabelError, PartialError
from nnunet_partial.inference.model.modality_rules import (
    NORMALISED,
    chosen_modalities,
    model_rules,
    normalised_image,
)
from nnunet_partial.inference.preprocessing import prepare
from nnunet_partial.inference.reading.image_reader import read_image
from nnunet_partial.labels.sidecar import to_json
from nnunet_partial.normalisation import Clip, Percentiles, Rule, ZScore, normalise_file
from tests.unit.test_image_reader import AFFINES, NIFTI_READERS
from tests.unit.test_preprocessing import make_plan
from tests.unit.test_protocol_view import labels_of

RULES: dict[str, Rule] = {"CT": Clip(-300.5, 250), "MR": Percentiles(1, 99)}
EVERY_RULE: list[Rule] = [Clip(-300.5, 250), Clip(-300, 250, 41.3, 97.7), Percentiles(0.7, 98.9), ZScore()]


def dataset_json(rules: dict[str, Rule] = RULES) -> dict[str, Any]:
    return {"partial_labels": to_json(dataclasses.replace(labels_of(), normalisation=rules))}


def body(shape: tuple[int, ...], dtype: str = "int16", seed: int = 0) -> np.ndarray:
    """A body with a hole in it, and zeros around it; fractions where the type has them."""
    array = np.random.default_rng(seed).normal(120, 190, shape)
    array[[0, -1]] = 0
    array[:, -1] = 0
    array[4, 3] = 0
    return (np.abs(array).clip(0, 255) if dtype.startswith("u") else array).astype(dtype)


def assert_as_from_file(source: Path, rule: Rule, reader: str, target: Path) -> None:
    """What the normalised file holds is what becomes of the original after it was read."""
    normalise_file(source, target, rule)
    expected, image = read_image([target], reader), read_image([source], reader)
    found = normalised_image(image.data, "X", {"X": rule})
    assert found.dtype == np.float32
    assert len(np.unique(found)) > 10
    np.testing.assert_array_equal(found, expected.data)


@pytest.mark.parametrize("reader", NIFTI_READERS)
@pytest.mark.parametrize("affine", AFFINES)
def test_every_reader_and_orientation(reader: str, affine: str, tmp_path: Path) -> None:
    source = tmp_path / "a.nii.gz"
    image = nib.Nifti1Image(body((13, 12, 11)), None)
    image.set_qform(AFFINES[affine], code=1)
    image.set_sform(AFFINES[affine], code=1)
    nib.save(image, source)
    for number, rule in enumerate(EVERY_RULE):
        assert_as_from_file(source, rule, reader, tmp_path / f"{number}.nii.gz")


@pytest.mark.parametrize("reader", NIFTI_READERS)
@pytest.mark.parametrize("stored", ["uint8", "uint16", "int32", "float32", "float64", "scaled"])
def test_every_voxel_type(reader: str, stored: str, tmp_path: Path) -> None:
    source = tmp_path / "a.nii"
    array = body((13, 12, 11), "int16" if stored == "scaled" else stored)
    if stored == "int32":
        array += 1 << 25  # no float32 holds these
    image = nib.Nifti1Image(array, AFFINES["permuted"])
    if stored == "scaled":
        image.header.set_slope_inter(0.37, -11.3)
    nib.save(image, source)
    rules = [Percentiles(1, 99), ZScore()] if stored == "int32" else EVERY_RULE
    for number, rule in enumerate(rules):
        assert_as_from_file(source, rule, reader, tmp_path / f"{number}.nii")


@pytest.mark.parametrize(
    ("reader", "dimensions"), [("SimpleITKIO", 2), ("SimpleITKIO", 3), ("SimpleITKIOWithReorient", 3)]
)
@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii"])
def test_other_formats_and_2d_images(reader: str, ending: str, dimensions: int, tmp_path: Path) -> None:
    source = tmp_path / f"a{ending}"
    array = body((9, 12, 11))
    sitk.WriteImage(sitk.GetImageFromArray(array if dimensions == 3 else array[4]), str(source))
    for number, rule in enumerate(EVERY_RULE):
        assert_as_from_file(source, rule, reader, tmp_path / f"{number}{ending}")


@pytest.mark.parametrize("rule", EVERY_RULE)
def test_order_and_direction_of_axes_do_not_matter(rule: Rule) -> None:
    image = body((31, 30, 29), "float32")
    expected = rule.apply(image)
    for order in itertools.permutations(range(3)):
        for flipped in (0, 1, (0, 2), (0, 1, 2)):
            found = rule.apply(np.flip(image, flipped).transpose(order))
            np.testing.assert_array_equal(np.flip(found.transpose(np.argsort(order)), flipped), expected)


def test_each_channel_by_itself() -> None:
    image = np.stack([body((7, 8, 9), "float32", seed) * (seed + 1) for seed in range(3)])
    before = image.copy()
    found = normalised_image(image, "MR", RULES)
    np.testing.assert_array_equal(image, before)
    for channel, expected in zip(found, image, strict=True):
        np.testing.assert_array_equal(channel, Percentiles(1, 99).apply(expected))


def test_nothing_to_do() -> None:
    image = np.ones((1, 2, 3, 4), np.float32)
    assert normalised_image(image, None, {}) is image
    assert normalised_image(image, NORMALISED, RULES) is image


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers(value: float) -> None:
    image = np.ones((1, 2, 3, 4), np.float32)
    image[0, 1, 1, 1] = value
    with pytest.raises(PartialError, match="expected numbers, found NaN or infinite voxels"):
        normalised_image(image, "MR", RULES)


@pytest.mark.parametrize(
    ("modality", "rules", "message"),
    [
        (
            None,
            RULES,
            "normalised by modality, one of CT, MR: say which with --modality NAME, .* --modality normalised",
        ),
        ("PET", RULES, "no rule for the modality 'PET'; expected one of CT, MR, normalised"),
        ("", RULES, "no rule for the modality ''"),
        ("CT", {}, "this model has no normalisation by modality: leave the modality out"),
        (NORMALISED, {}, "this model has no normalisation by modality"),
    ],
)
def test_modalities_that_do_not_fit(modality: str | None, rules: dict[str, Rule], message: str) -> None:
    with pytest.raises(PartialError, match=message):
        normalised_image(np.ones((1, 2, 3, 4), np.float32), modality, rules)


def test_modalities_of_a_folder() -> None:
    def chosen(modalities: Any, rules: dict[str, Rule] = RULES) -> dict[str, str | None]:
        return chosen_modalities(rules, Path("images"), ["a", "b"], modalities)

    assert chosen("MR") == {"a": "MR", "b": "MR"}
    assert chosen({"b": "CT", "a": NORMALISED, "c": "PET"}) == {"a": NORMALISED, "b": "CT"}
    assert chosen(None, {}) == {"a": None, "b": None}
    for modalities, rules, message in (
        (None, RULES, "normalised by modality, one of CT, MR"),
        ({}, RULES, r"images: no modality is given for the cases \['a', 'b'\]; add them to the CSV file"),
        ({"a": "CT"}, RULES, r"no modality is given for the cases \['b'\]"),
        ({"a": "CT", "b": "PET"}, RULES, r"modality \['PET'\]; expected some of \['CT', 'MR', 'normalised'\]"),
        ("CT", {}, "this model has no normalisation by modality"),
        ({}, {}, "this model has no normalisation by modality"),
    ):
        with pytest.raises(PartialError, match=message):
            chosen(modalities, rules)


def test_rules_of_a_model() -> None:
    assert model_rules(dataset_json()) == RULES
    assert model_rules({}) == {}
    assert model_rules(dataset_json({})) == {}
    damaged = dataset_json()
    damaged["partial_labels"]["normalisation"]["MR"] = "magic"
    with pytest.raises(LabelError, match=r"dataset.json, partial_labels: normalisation.MR: expected"):
        model_rules(damaged)
    with pytest.raises(PartialError, match="has a modality 'normalised', which here stands for"):
        model_rules(dataset_json({**RULES, NORMALISED: ZScore()}))


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
def test_the_crop_is_that_of_the_normalised_image(transpose: tuple[int, ...]) -> None:
    plan = make_plan(("NoNormalization",), transpose=transpose)
    plan = dataclasses.replace(plan, dataset_json=dataset_json())
    image = np.full((1, 20, 21, 22), -1000, np.float32)  # air, which becomes 0
    image[0, 3:15, 5:16, 7:19] = body((12, 11, 12), "float32") + 100
    found = prepare(image, (2.0, 1.3, 0.9), plan, "CT")
    alike = prepare(normalised_image(image, "CT", RULES), (2.0, 1.3, 0.9), plan, NORMALISED)
    np.testing.assert_array_equal(found.data, alike.data)
    assert found.box == alike.box
    assert [found.cropped_shape[transpose.index(axis)] for axis in range(3)] == [12, 11, 12]
    with pytest.raises(PartialError, match="say which with --modality"):
        prepare(image, (2.0, 1.3, 0.9), plan)
    with pytest.raises(PartialError, match="expected axes"):
        prepare(image[0], (2.0, 1.3, 0.9), plan, "CT")
