"""Every converter, on a fake download in the published layout: voxel for voxel, in world coordinates."""

from __future__ import annotations

import csv
import json
import multiprocessing.dummy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from nnunet_partial.conversion import Converter, Dicom
from nnunet_partial.conversion.engine import ConversionResult, Options, convert_dataset, plan_conversion
from nnunet_partial.errors import ProblemsError
from nnunet_partial.labels import load_dataset_json, partial_labels_of
from nnunet_partial.labels.verify import verify_dataset
from tests.conversion_fakes.scene import Fake, Scene
from tests.unit.conversion.conversions import CONVERTERS, fake_download


@pytest.fixture(params=CONVERTERS.values(), ids=lambda converter: converter.name)
def converter(request: pytest.FixtureRequest) -> Converter:
    return request.param


@pytest.fixture
def fake(converter: Converter, tmp_path: Path) -> Fake:
    return fake_download(converter, tmp_path / "my downloads ä")


@pytest.fixture
def convert(converter: Converter, fake: Fake, tmp_path: Path) -> Callable[..., ConversionResult]:
    def run(**options: object) -> ConversionResult:
        return convert_dataset(
            converter,
            fake.download,
            raw_folder=tmp_path / "raw",
            options=Options(**options),  # type: ignore[arg-type]
        )

    return run


def canonical(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if path.name.endswith(".png"):
        import SimpleITK as sitk

        return np.swapaxes(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), 0, 1), np.eye(4)
    image = nib.as_closest_canonical(nib.load(path))
    return np.asanyarray(image.dataobj), image.affine


def check_labels(path: Path, dataset: dict[str, object], scene: Scene) -> None:
    labels, affine = canonical(path)
    np.testing.assert_allclose(affine, scene.affine, atol=1e-4)
    values: dict[str, int] = dataset["labels"]  # type: ignore[assignment]
    for name in {part for label in values for part in label.split("+")} - {"background", "ignore"}:
        marked = np.isin(labels, [value for label, value in values.items() if name in label.split("+")])
        expected = scene.structures.get(name, np.zeros(labels.shape, bool))
        np.testing.assert_array_equal(marked, expected, err_msg=f"{path.name}: {name}")


def check_image(path: Path, scene: Scene) -> None:
    image, affine = canonical(path)
    np.testing.assert_allclose(affine, scene.affine, atol=1e-4)
    np.testing.assert_array_equal(image, scene.image)


@pytest.mark.parametrize("options", [{}, {"orientation": "RAS"}], ids=["as-is", "RAS"])
def test_voxels_lie_where_they_lay(
    convert: Callable[..., ConversionResult], converter: Converter, fake: Fake, options: dict[str, str]
) -> None:
    folder = convert(**options).folder
    dataset = load_dataset_json(folder)
    ending = converter.file_ending
    assert {p.name[: -len(ending)] for p in (folder / "labelsTr").iterdir()} == set(fake.train)
    for part, scenes in (("Tr", fake.train), ("Ts", fake.test)):
        for case, scene in scenes.items():
            check_image(folder / f"images{part}" / f"{case}_0000{ending}", scene)
            label = folder / f"labels{part}" / f"{case}{ending}"
            if part == "Tr" or scene.structures:
                check_labels(label, dataset, scene)
            else:
                assert not label.exists()
    if options and ending == ".nii.gz":
        assert all(nib.aff2axcodes(nib.load(p).affine) == tuple("RAS") for p in (folder / "imagesTr").iterdir())


def test_nnunet_finds_no_fault(
    convert: Callable[..., ConversionResult], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nnunetv2.experiment_planning import verify_dataset_integrity as nnunet

    # its own processes would each import nnU-Net again
    monkeypatch.setattr(nnunet, "multiprocessing", SimpleNamespace(get_context=lambda kind: multiprocessing.dummy))
    nnunet.verify_dataset_integrity(str(convert().folder), 1)
    said = capsys.readouterr().out
    assert "verify_dataset_integrity Done." in said
    assert "Warning" not in said


def test_dataset_is_verified_and_says_what_was_annotated(
    convert: Callable[..., ConversionResult], converter: Converter, fake: Fake
) -> None:
    result = convert()
    assert verify_dataset(result.folder).problems == []
    assert set(result.plan.left_out) == fake.left_out
    labels = partial_labels_of(load_dataset_json(result.folder))
    assert set(labels.cases) == set(fake.train)
    values = load_dataset_json(result.folder)["labels"]
    for case in fake.train:
        listed = {name for name in converter.label_names if values[name] in labels.set_of(case).possible}
        assert listed == fake.annotated.get(case, set(converter.label_names)), case
    assert dict(labels.patients) == fake.patients
    if fake.validation:
        (fold,) = json.loads((result.folder / "splits_final.json").read_text())
        assert set(fold["val"]) == fake.validation
        assert set(fold["train"]) == set(fake.train) - fake.validation
    if fake.patients:
        rows = list(csv.DictReader((result.folder / "patients.csv").open()))
        assert {row["case"]: row["patient"] for row in rows}.items() >= fake.patients.items()


def test_a_missing_image_is_named(converter: Converter, fake: Fake) -> None:
    planned = next(case for case in plan_conversion(converter, fake.download).cases if case.part == "Tr")
    image = planned.case.channels[-1]
    path = image.folder if isinstance(image, Dicom) else image
    for file in [path] if path.is_file() else list(path.rglob("*.dcm")):
        file.unlink()
    with pytest.raises(ProblemsError) as caught:
        plan_conversion(converter, fake.download)
    assert any(str(path.relative_to(converter.top_folder(fake.download))) in line for line in caught.value.problems)


def test_the_folder_above_and_the_folder_itself_are_accepted(converter: Converter, fake: Fake) -> None:
    top = converter.top_folder(fake.download)
    assert plan_conversion(converter, top).root == plan_conversion(converter, fake.download).root == top


def test_tables_say_where_data_come_from(converter: Converter) -> None:
    for text in (converter.licence, converter.citation, converter.url):
        assert text
    assert converter.url.startswith("http")
    assert converter.layout


def test_structures_mean_the_same_in_all_converters() -> None:
    """A tissue of one converter is no structure of several tissues in another, or merge files would mix them up."""
    composed = {n for c in CONVERTERS.values() for n in c.label_names if c.tissues(n) != {n} and n not in c.structures}
    plain = {n: c.name for c in CONVERTERS.values() for n in c.label_names if c.tissues(n) == {n}}
    assert composed & set(plain) == set()
