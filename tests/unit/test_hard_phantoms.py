"""The hard phantoms: what makes them hard, and that they stay what they are."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from nnunet_partial.errors import PartialError
from nnunet_partial.phantoms.hard import HARD_ATOMS, TISSUES, make_hard_phantom

SEEDS = (0, 1, 2, 7)
NAMES = list(TISSUES)
SMALL = {"shape": (30, 22, 20), "spacing_mm": (10.0, 10.0, 10.0)}


@pytest.fixture(scope="module", params=SEEDS)
def pair(request):
    return {modality: make_hard_phantom(request.param, modality=modality) for modality in ("CT", "MR")}


def median(phantom, tissue):
    return float(np.median(phantom.image[phantom.tissues == NAMES.index(tissue)]))


def core_median(phantom, atom):
    core = ndimage.binary_erosion(phantom.atoms == HARD_ATOMS.index(atom))
    return float(np.median(phantom.image[core]))


def millilitres(phantom):
    counts = np.bincount(phantom.atoms.ravel(), minlength=len(HARD_ATOMS))
    return dict(zip(HARD_ATOMS, counts * np.prod(phantom.spacing_mm) / 1000, strict=True))


def test_same_arguments_same_volume_other_seed_other_patient():
    first, second, other = (make_hard_phantom(s, **SMALL) for s in (3, 3, 4))
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.tissues, second.tissues)
    assert not np.array_equal(first.image, other.image)
    assert (first.atoms != other.atoms).mean() > 0.02


def test_types_and_ranges(pair):
    for phantom in pair.values():
        assert phantom.image.dtype == np.float32 and phantom.atoms.dtype == phantom.tissues.dtype == np.uint8
        assert phantom.image.shape == phantom.atoms.shape == phantom.tissues.shape == (64, 48, 40)
        assert np.isfinite(phantom.image).all()
    assert pair["CT"].image.min() >= -1024
    assert pair["MR"].image.min() >= 0


def test_both_modalities_show_the_same_patient_and_the_noise_changes_no_label(pair):
    assert np.array_equal(pair["CT"].tissues, pair["MR"].tissues)
    quiet, loud = make_hard_phantom(5, noise=0.0, **SMALL), make_hard_phantom(5, noise=30.0, **SMALL)
    assert np.array_equal(quiet.atoms, loud.atoms)
    assert (loud.image - quiet.image)[quiet.tissues == NAMES.index("muscle")].std() == pytest.approx(30, rel=0.15)


def test_volumes_of_organs(pair):
    volume = millilitres(pair["CT"])
    assert 500 < volume["liver_tissue"] < 1800
    assert 60 < volume["spleen"] < 260
    for kidney in ("kidney_left", "kidney_right"):
        assert 60 < volume[kidney] < 260
    assert 30 < volume["pancreas"] < 110
    assert 6 < volume["liver_tumour"] < 90
    assert 5 < volume["adrenal"] < 30
    assert volume["adrenal"] == min(volume.values()) or volume["liver_tumour"] < volume["adrenal"]


def test_every_atom_is_the_tissue_of_that_name_and_all_else_is_background(pair):
    phantom = pair["CT"]
    for index, tissue in enumerate(NAMES):
        atoms = np.unique(phantom.atoms[phantom.tissues == index])
        expected = HARD_ATOMS.index(tissue) if tissue in HARD_ATOMS else 0
        assert set(atoms) <= {expected}, tissue


def test_decoys_look_like_their_organs_and_are_annotated_by_nobody(pair):
    for decoy in ("decoy_kidney", "decoy_pancreas", "decoy_adrenal"):
        original, looks = TISSUES[TISSUES[decoy].like], TISSUES[decoy]
        assert (looks.ct, looks.mr, looks.fine, looks.coarse) == (
            original.ct,
            original.mr,
            original.fine,
            original.coarse,
        )
    phantom = pair["CT"]
    decoy = phantom.tissues == NAMES.index("decoy_kidney")
    assert decoy.sum() > 60
    assert not phantom.atoms[decoy].any()
    inside = ndimage.binary_erosion(decoy)
    assert np.median(phantom.image[inside]) == pytest.approx(core_median(phantom, "kidney_left"), abs=18)


def test_kidneys_look_alike_and_liver_and_spleen_nearly_so(pair):
    phantom = pair["CT"]
    assert core_median(phantom, "kidney_left") == pytest.approx(core_median(phantom, "kidney_right"), abs=12)
    assert abs(core_median(phantom, "liver_tissue") - core_median(phantom, "spleen")) < 2 * 6 + 4 + 4
    # the spleen's texture is coarser: neighbours resemble each other more
    smooth = make_hard_phantom(9, noise=0.0)
    correlation = {}
    for atom in ("liver_tissue", "spleen"):
        core = ndimage.binary_erosion(smooth.atoms == HARD_ATOMS.index(atom))
        both = core[:-1] & core[1:]
        correlation[atom] = np.corrcoef(smooth.image[:-1][both], smooth.image[1:][both])[0, 1]
    assert correlation["spleen"] > correlation["liver_tissue"] + 0.1


def test_modalities_order_tissues_differently(pair):
    ct, mr = pair["CT"], pair["MR"]
    assert median(ct, "fat") < median(ct, "muscle") < core_median(ct, "liver_tissue")
    assert median(mr, "fat") > core_median(mr, "liver_tissue") > median(mr, "muscle")
    assert core_median(ct, "kidney_left") > core_median(ct, "liver_tissue")
    assert core_median(mr, "kidney_left") < core_median(mr, "liver_tissue")


def test_organs_lie_where_they_belong(pair):
    phantom = pair["CT"]
    centre = {a: ndimage.center_of_mass(phantom.atoms == i) for i, a in enumerate(HARD_ATOMS)}
    # axes are RAS+: x grows to the patient's right side, z to the head
    assert centre["kidney_left"][0] < centre["kidney_right"][0]
    assert centre["spleen"][0] < centre["liver_tissue"][0]
    assert centre["adrenal"][2] > (centre["kidney_left"][2] + centre["kidney_right"][2]) / 2


def test_tumours_lie_inside_the_liver_and_their_number_is_kept():
    phantom = make_hard_phantom(11)
    tumour = phantom.atoms == HARD_ATOMS.index("liver_tumour")
    rim = ndimage.binary_dilation(tumour) & ~tumour
    assert (phantom.atoms[rim] == HARD_ATOMS.index("liver_tissue")).mean() > 0.9
    assert not (make_hard_phantom(11, tumours=0).atoms == HARD_ATOMS.index("liver_tumour")).any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"shape": (8, 32, 32)},
        {"shape": (32, 32)},
        {"spacing_mm": (5.0, 0.0, 5.0)},
        {"modality": "PET"},
        {"noise": -1.0},
        {"noise": float("nan")},
        {"tumours": -1},
    ],
)
def test_bad_arguments_are_named(wrong):
    with pytest.raises(PartialError, match=next(iter(wrong))):
        make_hard_phantom(**{"seed": 0, **wrong})
