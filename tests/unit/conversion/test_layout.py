"""Finding files by patterns, and tables that belong to a download."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_partial.conversion import either, find, ids, read_table
from nnunet_partial.errors import PartialError, ProblemsError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_ids_are_in_natural_order_and_junk_never_fits(tmp_path: Path) -> None:
    touch(tmp_path, "img/case_10.nii.gz", "img/case_9.nii.gz", "img/._case_9.nii.gz", "img/case_x.nii.gz")
    touch(tmp_path, "img/note.txt", "img/case_.nii.gz", "__MACOSX/case_1.nii.gz", "img/.case_3.nii.gz")
    assert ids(tmp_path, "img/case_{id}.nii.gz") == ["9", "10", "x"]
    assert ids(tmp_path, "img/case_{id}.nii.gz", id="[0-9]+") == ["9", "10"]
    assert find(tmp_path, "{folder}/case_1.nii.gz", optional=True) == []


def test_ids_of_several_patterns_are_those_of_any(tmp_path: Path) -> None:
    touch(tmp_path, "images/a_0000.nii.gz", "images/b_0000.nii.gz", "labels/b.nii.gz", "labels/c.nii.gz")
    assert ids(tmp_path, "images/{id}_0000.nii.gz", "labels/{id}.nii.gz") == ["a", "b", "c"]


def test_fields_vary_over_folders_and_repeat(tmp_path: Path) -> None:
    touch(tmp_path, "P_1/P_1.nii", "P_1/P_2.nii", "P_2/P_2.nii", "P_3/GT.nii", "x y ä/1 b/SEG.nii", "11/11_11.nii")
    assert [f.fields for f in find(tmp_path, "P_{id}/P_{id}.nii")] == [{"id": "1"}, {"id": "2"}]
    (found,) = find(tmp_path, "{patient}/{study}/SEG.nii")
    assert (found["patient"], found["study"]) == ("x y ä", "1 b")
    assert found.path == tmp_path / "x y ä" / "1 b" / "SEG.nii"
    assert ids(tmp_path, "{a}/{id}_{id}.nii") == ["11"]


def test_a_dot_in_a_pattern_is_a_dot(tmp_path: Path) -> None:
    touch(tmp_path, "aXnii")
    assert ids(tmp_path, "{id}.nii", optional=True) == []


def test_folders_fit_too_and_loops_of_links_do_no_harm(tmp_path: Path) -> None:
    touch(tmp_path, "s1/segmentations/liver.nii", "s2/segmentations/liver.nii")
    (tmp_path / "s1" / "segmentations" / "loop").symlink_to(tmp_path)
    (tmp_path / "s3").symlink_to(tmp_path / "s3")
    assert ids(tmp_path, "s{id}/segmentations") == ["1", "2"]
    assert find(tmp_path, "{a}/segmentations/loop/{b}/segmentations/loop/{c}/segmentations/{file}.nii")


def test_all_that_fits_nothing_is_named_with_what_is_there(tmp_path: Path) -> None:
    touch(tmp_path, *(f"images/Organ12_{n:04d}.nii.gz" for n in range(10)), "file")
    with pytest.raises(ProblemsError) as caught:
        ids(tmp_path, "images/Case_{id}.nii.gz", "labels/Case_{id}.nii.gz", "file/{id}", "{id}/x/y")
    first, second, third, fourth = caught.value.problems
    assert first.startswith("expected images/Case_{id}.nii.gz, but the folder images holds Organ12_0000.nii.gz, Organ")
    assert first.endswith("and 2 more")
    assert second == "expected labels/Case_{id}.nii.gz, but this folder holds file, images"
    assert third == "expected file/{id}, but this folder holds file, images"
    assert fourth == "expected {id}/x/y, but this folder holds file, images"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ProblemsError, match=r"but the folder empty holds nothing"):
        find(tmp_path, "empty/{id}")


def test_either_takes_the_first_pattern_that_fits(tmp_path: Path) -> None:
    touch(tmp_path, "Masks/1.nii")
    assert either(tmp_path, "Mask/{id}.nii", "Masks/{id}.nii") == "Masks/{id}.nii"
    with pytest.raises(ProblemsError, match="2 problems"):
        either(tmp_path, "a/{id}", "b/{id}")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_with_any_delimiter(delimiter: str, tmp_path: Path) -> None:
    rows = [["image_id", "split", "note"], ["s1", " train", "a b"], ["s2", "test"]]
    path = tmp_path / "meta.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(delimiter.join(row) for row in rows).encode())
    assert read_table(path, ("image_id", "split")) == [
        {"image_id": "s1", "split": "train", "note": "a b"},
        {"image_id": "s2", "split": "test", "note": ""},
    ]


def test_tables_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(PartialError, match=r"meta.csv: no such file; it belongs to the download"):
        read_table(tmp_path / "meta.csv", ("id",))
    (tmp_path / "meta.csv").write_text("name,split\n")
    with pytest.raises(PartialError, match=r"expected the columns \['id'\], found 'name,split'"):
        read_table(tmp_path / "meta.csv", ("id",))
    (tmp_path / "meta.csv").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(PartialError, match="cannot be read as a table"):
        read_table(tmp_path / "meta.csv", ("id",))
