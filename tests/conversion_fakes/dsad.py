"""DSAD: a folder an organ, a folder a surgery in it, drafts of masks below that, and the shared subset."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.conversion_fakes.scene import Fake, Scene, write_picture

MULTILABEL = ["abdominal_wall", "colon", "liver", "pancreas", "small_intestine", "spleen", "stomach"]
ORGANS = sorted([*MULTILABEL, "inferior_mesenteric_artery", "intestinal_veins", "ureter", "vesicular_glands"])
# surgeries 2, 12, 20, 21 and 22 are told apart by their numbers only; 3 and 21 are for validation, 2 and 20 for testing
PICTURES = {"02": ("00", "07"), "03": ("00",), "12": ("03",), "20": ("00",), "21": ("00",), "22": ("00", "01", "91")}
TEST, VALIDATION = ("02", "20"), ("03", "21")
SIZE = (20, 16)


def make(folder: Path, name: str) -> Fake:
    subset = name.removeprefix("DSAD_")
    organs = MULTILABEL if subset == "multilabel" else [subset]
    train, test = {}, {}
    for surgery, numbers in PICTURES.items():
        for number in numbers:
            scene = picture(int(surgery + number), subset, organs)
            place = folder / subset / surgery
            write_picture(place / f"image{number}.png", scene.image)
            if subset == "multilabel":
                _write_masks(place, number, scene)
            else:
                _write_mask(place, number, scene.structures[subset])
            (test if surgery in TEST else train)[f"{surgery}_{number}"] = scene
        (place / "weak_labels.csv").write_text("images000,1,0,0,0,0,0,0,0,0,0,0\n")
    (folder / "multilabel").mkdir(exist_ok=True)
    (folder / "multilabel" / ".directory").write_text("[Dolphin]")
    return Fake(
        folder,
        train,
        test,
        patients={case: f"DSAD_{case[:2]}" for case in train},
        validation={case for case in train if case[:2] in VALIDATION},
    )


def picture(seed: int, subset: str, organs: list[str]) -> Scene:
    """A picture in colours; of an organ alone some masks are empty, of several some organs are not visible."""
    rng = np.random.default_rng([seed, len(subset), ord(subset[0])])
    columns = np.array_split(np.arange(SIZE[0] - 4), len(organs))
    structures = {}
    for index, (organ, part) in enumerate(zip(organs, columns, strict=True)):
        structures[organ] = np.zeros(SIZE, bool)
        structures[organ][part[0] : part[-1] + 2, 3:9] = True  # neighbours share a column
        if organ != "stomach" and (seed + index) % 5 == 0:
            structures[organ][:] = False
    return Scene(rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8), structures, np.eye(4))


def _write_mask(place: Path, number: str, mask: np.ndarray) -> None:
    """Black and white, some of them stored as coloured pictures; raters' drafts have the same name."""
    grey = mask.astype(np.uint8) * 255
    write_picture(place / f"mask{number}.png", np.stack([grey] * 3, -1) if int(number) % 2 else grey)
    for draft in ("anno_1", "anno_2", "anno_3", "merged"):
        write_picture(place / draft / f"mask{number}.png", 255 - grey)
        write_picture(place / draft / f"image{number}.png", 255 - grey)


def _write_masks(place: Path, number: str, scene: Scene) -> None:
    for organ, mask in scene.structures.items():
        if mask.any() or int(number) % 2:  # of organs that are not visible there is an empty mask or none
            write_picture(place / f"mask{number}_{organ}.png", mask.astype(np.uint8) * 255)
