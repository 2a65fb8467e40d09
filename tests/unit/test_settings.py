"""Settings from environment variables, and recipes changed by them."""

from __future__ import annotations

import pytest

from nnunet_partial import trainers
from nnunet_partial.errors import LabelError, PartialError
from nnunet_partial.labels import AnnotationSet, LabelSpace, PartialLabels
from nnunet_partial.losses import AmbiguityAwareLoss, MultiTalentLoss
from nnunet_partial.sampling import CaseSampling, HierarchicalSampling
from nnunet_partial.training import SOFTMAX, Recipe
from nnunet_partial.training.recipe import SETTINGS
from nnunet_partial.training.settings import read_setting, refuse_unknown_settings


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch):
    """Sets `nnUNet_partial_NAME`."""
    return lambda name, text: monkeypatch.setenv(f"nnUNet_partial_{name}", text)


def test_a_setting_has_the_type_of_its_default(setting) -> None:
    for name, text in {"a": "3", "b": "0.5", "c": "no", "d": "text"}.items():
        setting(name, text)
    values = [read_setting("a", 1), read_setting("b", 1.0), read_setting("c", True), read_setting("d", "")]
    assert values == [3, 0.5, False, "text"]
    assert [type(v) for v in values] == [int, float, bool, str]
    assert read_setting("not_set", 7) == 7


def test_truth_is_0_or_1(setting) -> None:
    setting("c", "maybe")
    with pytest.raises(PartialError, match="nnUNet_partial_c: expected 0 or 1, found 'maybe'"):
        read_setting("c", True)


def test_misspelt_settings_are_refused(setting) -> None:
    setting("epoch", "3")
    with pytest.raises(PartialError, match=r"nnUNet_partial_epoch is no setting; settings are \['nnUNet_partial_ep"):
        refuse_unknown_settings(["epochs"])


def test_sampling_is_chosen_by_name_and_keeps_the_share_of_unlabelled_cases(setting) -> None:
    setting("sampling", "mdc")
    chosen = trainers.PartialLabelTrainerAmbiguity.recipe.from_environment().sampling
    assert isinstance(chosen, HierarchicalSampling)
    assert chosen.levels == ("modality", "source", "class")
    assert chosen.unlabelled_share == trainers.PartialLabelTrainerAmbiguity.recipe.sampling.unlabelled_share
    setting("unlabelled_share", "0.25")
    setting("sampling", "uniform")
    assert trainers.PartialLabelTrainer.recipe.from_environment().sampling == CaseSampling(
        power=0.0, foreground_share=0.0, unlabelled_share=0.25
    )


@pytest.mark.parametrize(
    ("trainer", "name", "text", "message"),
    [
        (
            "PartialLabelTrainer",
            "sampling",
            "random",
            "expected one of multitalent, cases, uniform, cmd, cmd_anywhere, mdc",
        ),
        ("PartialLabelTrainer", "unlabelled_share", "1", "expected a share below 1"),
        ("PartialLabelTrainer", "slices", "axial", "slices: the loss of this trainer knows nothing of it"),
        ("PartialLabelTrainerMarginal", "slices", "axial", "slices: the loss of this trainer knows nothing of it"),
        ("PartialLabelTrainerLeafDice", "slices", "axial", "slices: the loss of this trainer knows nothing of it"),
        ("PartialLabelTrainer", "optional", "liver", "only the loss of PartialLabelTrainerSelected"),
        ("PartialLabelTrainer", "entropy_weight", "0", "entropy_weight: the loss of this trainer knows nothing of it"),
        ("PartialLabelTrainerMarginal", "entropy_weight_unannotated", "2", "knows nothing of it; only that of Partial"),
        ("PartialLabelTrainerLeafDice", "smoothing", "1", "smoothing: the loss of this trainer knows nothing of it"),
        ("PartialLabelTrainerAmbiguity", "entropy_weight", "-1", "expected a finite number of at least 0, found '-1'"),
        ("PartialLabelTrainerAmbiguity", "entropy_weight", "nan", "expected a finite number of at least 0, found 'nan"),
        ("PartialLabelTrainerAmbiguity", "entropy_weight_unannotated", "inf", "expected a finite number of at least 0"),
        ("PartialLabelTrainerAmbiguity", "entropy_weight_unannotated", "no", "expected a number, found 'no'"),
        ("PartialLabelTrainerAmbiguity", "smoothing", "0", "smoothing: expected a finite number above 0, found '0'"),
        ("PartialLabelTrainerAmbiguity", "smoothing", "-0.5", "expected a finite number above 0, found '-0.5'"),
        ("PartialLabelTrainerAmbiguity", "slices", "oblique", "expected one of sagittal, coronal, axial"),
        ("PartialLabelTrainerAmbiguity", "implied_negatives", "0", "belong to sigmoid heads"),
    ],
)
def test_what_does_not_fit_a_recipe_is_refused(setting, trainer: str, name: str, text: str, message: str) -> None:
    setting(name, text)
    with pytest.raises(PartialError, match=message):
        getattr(trainers, trainer).recipe.from_environment()


def test_weights_of_the_ambiguity_losses(setting) -> None:
    recipe = trainers.PartialLabelTrainerAmbiguity.recipe
    assert recipe.from_environment().loss_weights == {}
    published = recipe.loss()
    assert (published.entropy_weight, published.entropy_weight_unannotated, published.smoothing) == (1, 3, 1e-5)
    for name, text in {"entropy_weight": "0", "entropy_weight_unannotated": "0.0", "smoothing": "1"}.items():
        setting(name, text)
    changed = recipe.from_environment()
    assert changed.loss_weights == {"entropy_weight": 0.0, "entropy_weight_unannotated": 0.0, "smoothing": 1.0}
    loss = changed.loss(**changed.loss_weights)
    assert (loss.entropy_weight, loss.entropy_weight_unannotated, loss.smoothing) == (0, 0, 1)


def test_recipes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(PartialError, match="entropy_weight: the loss of this trainer knows nothing of it"):
        Recipe(loss=MultiTalentLoss, entropy_weight=0.0)
    with pytest.raises(PartialError, match="belong to sigmoid heads"):
        Recipe(loss=AmbiguityAwareLoss, heads=SOFTMAX, head_prior=0.01)
    with pytest.raises(PartialError, match="belong to sigmoid heads"):
        Recipe(loss=AmbiguityAwareLoss, heads=SOFTMAX, positive_weights=True)


def test_classes_can_be_chosen(setting) -> None:
    space = LabelSpace({"anatomy": ("background", "a", "b")}, {n: frozenset({n}) for n in ("a", "b")})
    sets = {"s": AnnotationSet("s", "s", "CT", {0: frozenset({"background"}), 1: frozenset({"a"})})}
    labels = PartialLabels(space, sets, {"case": "s"})
    setting("classes", " b ")
    chosen = Recipe(loss=MultiTalentLoss).from_environment().train_labels(labels)
    assert chosen.class_names == ("b",)
    assert chosen.space.atoms == space.atoms
    setting("classes", "a,heart")
    with pytest.raises(LabelError, match=r"there are no classes \['heart'\]; classes are \['a', 'b'\]"):
        Recipe(loss=MultiTalentLoss).from_environment().train_labels(labels)


def test_every_setting_has_an_effect_on_some_recipe(setting) -> None:
    texts = {
        "sampling": "cmd", "unlabelled_share": "0.5", "implied_negatives": "0", "pretrained": "x.pth", "classes": "a",
        "optimizer": "adamw", "decay": "step", "slices": "axial", "optional": "a",
    }  # fmt: skip
    for name in SETTINGS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(f"nnUNet_partial_{name}", texts.get(name, "7"))
            of_ambiguity = ("slices", "entropy_weight", "entropy_weight_unannotated", "smoothing")
            other = dict.fromkeys(of_ambiguity, trainers.PartialLabelTrainerAmbiguity)
            other["optional"] = trainers.PartialLabelTrainerSelected
            recipe = other.get(name, trainers.PartialLabelTrainer).recipe
            assert recipe.from_environment() != recipe, name
