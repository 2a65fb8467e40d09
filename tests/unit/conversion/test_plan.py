"""What a conversion would do, and all that stops it before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nnunet_partial.conversion import OCCURRING, Annotated, Case, Converter, Dicom, LabelMap, LeftOut, Masks
from nnunet_partial.conversion.engine import Options, Plan, plan_conversion
from nnunet_partial.errors import PartialError, ProblemsError
from tests.unit.conversion.conftest import NAMES, Toy, plain_cases, toy


def changed(**changes: Callable[[Case], Case | LeftOut]) -> Callable[[Path], Iterator[Case | LeftOut]]:
    """The cases of the toy dataset, of which some are changed."""

    def cases(root: Path) -> Iterator[Case | LeftOut]:
        for case in plain_cases(root):
            yield changes.get(case.id, lambda case: case)(case)

    return cases


def plan(download: Toy, converter: Converter | None = None, **options: Any) -> Plan:
    return plan_conversion(converter or toy(), download.download, Options(**options))


def sets(planned: Plan) -> dict[str, tuple[str | None, tuple[str, ...] | None]]:
    return {one.case.id: (one.set_name, one.annotated) for one in planned.cases}


def test_everything_is_annotated_unless_said_otherwise(download: Toy) -> None:
    planned = plan(download)
    assert sets(planned) == dict.fromkeys("abc", ("all", tuple(NAMES)))
    assert planned.lookup == {0: 0, 1: 1, 2: 2, 3: 3}
    assert planned.left_out == {}


def test_sets_by_name_by_labels_by_what_occurs_and_none(download: Toy) -> None:
    cases = changed(
        a=lambda case: replace(case, annotated="organs"),
        b=lambda case: replace(case, annotated=("kidneys", "liver")),
        c=lambda case: replace(case, annotated=OCCURRING),
    )
    converter = toy(cases=cases, sets={"organs": Annotated(("liver", "spleen"), absent=("liver_tumor",))})
    planned = plan(download, converter)
    assert sets(planned) == {
        "a": ("organs", ("liver", "spleen")),
        "b": ("liver+kidneys", ("liver", "kidneys")),
        "c": (None, None),
    }
    assert planned.cases[0].absent == ("liver_tumor",)


def test_chosen_labels_are_numbered_anew(download: Toy) -> None:
    cases = changed(a=lambda case: replace(case, annotated=("liver",)))
    converter = toy(cases=cases, labels={10: "liver", 20: "spleen", 30: "kidneys", 40: "ignore", 50: None})
    planned = plan(download, converter, labels=("kidneys", "spleen"))
    assert planned.names == ("spleen", "kidneys")
    assert planned.lookup == {0: 0, 10: 0, 20: 1, 30: 2, 40: 65535, 50: 0}
    assert sets(planned) == dict.fromkeys("bc", ("all", ("spleen", "kidneys")))
    assert planned.left_out == {"a": "has no labels (--unlabelled converts it)"}
    assert sets(plan(download, converter, labels=("spleen",), unlabelled=True))["a"] == ("none", ())


def test_many_labels_make_a_short_name(download: Toy) -> None:
    names = [f"structure_number_{index}" for index in range(20)]
    cases = changed(a=lambda case: replace(case, annotated=tuple(names[:10])))
    planned = plan(download, toy(labels=names, cases=cases))
    assert planned.cases[0].set_name is not None
    assert planned.cases[0].set_name.startswith("10_labels_")
    assert planned.cases[0].set_name == plan(download, toy(labels=names, cases=cases)).cases[0].set_name


def test_cases_left_out_by_the_converter_and_by_the_user(download: Toy) -> None:
    cases = changed(a=lambda case: LeftOut("a", "withdrawn"))
    planned = plan(download, toy(cases=cases), exclude=("c",))
    assert planned.left_out == {"a": "withdrawn", "c": "left out by --exclude"}
    assert [one.case.id for one in planned.cases] == ["b"]


def test_fingerprints_change_with_files_and_options(download: Toy) -> None:
    first = plan(download)
    assert plan(download).fingerprint() == first.fingerprint()
    others = [
        plan(download, orientation="RAS"),
        plan(download, link=True),
        plan(download, labels=("liver",)),
        plan(download, exclude=("c",)),
        plan(download, toy(labels=["spleen", "liver", "kidneys"])),
        plan(download, toy(cases=changed(a=lambda case: replace(case, patient="p")))),
        plan(download, toy(cases=changed(a=lambda case: replace(case, split="test")))),
    ]
    download.label("a").write_bytes(download.label("b").read_bytes())
    others.append(plan(download))
    assert len({one.fingerprint() for one in (first, *others)}) == 9
    assert [one.fingerprint for one in others[-1].cases][1:] == [one.fingerprint for one in first.cases][1:]


def test_a_partial_download_is_noted(download: Toy) -> None:
    planned = plan(download, toy(expected={"train": 5, "test": 2, "unlabelled": 9}))
    assert planned.notes == ("3 labelled cases found, the full download has 5",)
    assert plan(download, toy(expected={"train": 3})).notes == ()
    for split, test, notes in (
        ("train", 0, ()),
        ("test", 0, ("2 labelled cases found, the full download has 3",)),
        ("train", 1, ("1 labelled cases found and 1 left out, the full download has 3",)),
    ):
        cases = changed(
            a=lambda case, split=split: LeftOut("a", "withdrawn", split),  # type: ignore[misc]
            b=lambda case, test=test: replace(case, split="test") if test else case,  # type: ignore[misc]
        )
        assert plan(download, toy(cases=cases, expected={"train": 3, "test": test})).notes == notes
    withdrawn = changed(a=lambda case: LeftOut("a", "withdrawn"))  # 'expected' may or may not count them
    assert plan(download, toy(cases=withdrawn, expected={"train": 2})).notes == ()
    assert plan(download, link=True, orientation="RAS").notes == ("images that are turned or resized cannot be linked",)


# what stops it


def broken_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone"))


def looping_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize("kind", ["image", "label"])
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (Path.unlink, r"case 'b': {kind}s/b.nii.gz is missing"),
        (broken_link, r"case 'b': {kind}s/b.nii.gz is missing"),
        (looping_link, r"case 'b': {kind}s/b.nii.gz cannot be read \(Too many levels of symbolic links\)"),
    ],
    ids=["missing", "broken link", "link to itself"],
)
def test_files_that_are_not_there(kind: str, harm: Callable[[Path], None], message: str, download: Toy) -> None:
    harm(getattr(download, kind)("b"))
    harm(getattr(download, kind)("c"))
    with pytest.raises(ProblemsError, match=message.format(kind=kind)) as caught:
        download.convert()
    assert len(caught.value.problems) == 2
    assert "the download of Toy is not complete" in str(caught.value)
    assert not download.raw.exists()


def test_long_lists_of_missing_files_are_cut(download: Toy) -> None:
    cases = lambda root: (Case(f"case_{n}", image=root / f"{n}.nii.gz") for n in range(100))  # noqa: E731
    with pytest.raises(ProblemsError) as caught:
        plan(download, toy(cases=cases), unlabelled=True)
    assert len(caught.value.problems) == 41
    assert caught.value.problems[-1] == "and 60 more"


def test_no_such_folder_and_no_folder(download: Toy) -> None:
    for path in (download.download / "x", download.image("a")):
        with pytest.raises(PartialError, match="no such folder; expected the unpacked download of Toy"):
            plan_conversion(toy(), path)
    with pytest.raises(ProblemsError, match=r"expected images/\{id\}.nii.gz, but this folder holds"):
        plan_conversion(toy(), download.download.parent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda case: replace(case, id="b"), "case 'b' is found 2 times"),
        (lambda case: LeftOut("b", "withdrawn"), "case 'b' is found 2 times"),
        (lambda case: replace(case, id="ü b"), r"case 'ü b': expected letters, digits"),
        (lambda case: replace(case, id="../b"), r"case '\.\./b': expected letters, digits"),
        (lambda case: replace(case, split="none"), "case 'a': unknown split 'none'"),
        (lambda case: replace(case, split=-1), "case 'a': unknown split -1"),
        (lambda case: replace(case, annotated="organs"), r"'organs' is no annotation set; there are \[\]"),
        (lambda case: replace(case, annotated=("aorta",)), r"\['aorta'\] are annotated, but labels are"),
        (lambda case: replace(case, image=(case.image, case.image)), r"2 images for the channels \['CT'\]"),
        (lambda case: replace(case, label=Masks({"aorta": Path("x")})), r"masks of \['aorta'\], which are no labels"),
        (
            lambda case: replace(case, label=Masks({"liver": Path("x")}), annotated=("liver", "spleen")),
            r"\['spleen'\] are annotated, but have no mask",
        ),
        (lambda case: replace(case, image=Dicom(case.channels[0].parent / "none")), "images/none is missing"),
    ],
)
def test_cases_that_make_no_sense(change: Callable[[Case], Case], message: str, download: Toy) -> None:
    with pytest.raises(PartialError, match=message):
        download.convert(toy(cases=changed(a=change)))
    assert not download.raw.exists()


def test_an_empty_folder_is_no_dicom_series(download: Toy) -> None:
    (download.download / "series").mkdir()
    cases = changed(a=lambda case: replace(case, image=Dicom(download.download / "series")))
    with pytest.raises(ProblemsError, match="case 'a': series is missing"):
        plan(download, toy(cases=cases))


def test_a_patient_on_both_sides_of_the_split(download: Toy) -> None:
    cases = changed(
        a=lambda case: replace(case, patient="p"),
        b=lambda case: replace(case, patient="p", split="test"),
    )
    with pytest.raises(ProblemsError, match=r"patient 'p' stands in \['test', 'train'\]"):
        plan(download, toy(cases=cases))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ("liver", "aorta")}, r"--labels: \['aorta'\] cannot be chosen; labels of Toy are \['liver'"),
        ({"labels": ()}, "--labels: nothing cannot be chosen"),
        ({"exclude": ("z",)}, r"--exclude: \['z'\] are no cases of this download"),
        ({"exclude": ("a", "b", "c")}, "no training case of Toy is left to convert; 3 left out by --exclude"),
        ({"size": (4, 4)}, "Toy holds volumes; only pictures can be resized"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str, download: Toy) -> None:
    with pytest.raises(PartialError, match=message):
        plan(download, **options)


def test_masks_decide_what_was_annotated(download: Toy) -> None:
    liver = LabelMap(download.label("a")).path

    def masks(missing: str, *names: str) -> Callable[[Case], Case]:
        files = {name: liver if name == "liver" else liver.with_name("none.nii.gz") for name in names}
        return lambda case: replace(case, label=Masks(files, missing=missing))  # type: ignore[arg-type]

    cases = changed(
        a=masks("error", "liver"), b=masks("absent", "liver", "spleen"), c=masks("unannotated", "liver", "spleen")
    )
    assert sets(plan(download, toy(cases=cases))) == {
        "a": ("liver", ("liver",)),
        "b": ("liver+spleen", ("liver", "spleen")),
        "c": ("liver", ("liver",)),
    }
    with pytest.raises(ProblemsError, match=r"case 'a': labels/none\.nii\.gz is missing"):
        plan(download, toy(cases=changed(a=masks("error", "liver", "spleen"))))
    assert sets(plan(download, toy(cases=changed(a=masks("error", "liver", "spleen"))), labels=("liver",)))["a"] == (
        "all",
        ("liver",),
    )
