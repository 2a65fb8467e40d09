"""Time of export and of input resampling relative to nnU-Net's, on a volume of 512x512x200 voxels."""

from __future__ import annotations

import numpy as np
import pytest
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

from nnunet_partial.inference.label_export import export_labels
from nnunet_partial.inference.model.plan import Decoding, Resampling
from nnunet_partial.inference.resampling import axis_maps, resample_image
from tests.bench.measure import paired_seconds

pytestmark = pytest.mark.bench

SHAPE, LOW = (200, 512, 512), (207, 210, 210)
SPACING, LOW_SPACING = (2.5, 0.8, 0.8), (2.42, 1.95, 1.95)
CLASSES = 14


def balls() -> np.ndarray:
    """Logits of balls of all sizes on a background, smooth as those of a network, (14, *LOW)."""
    rng = np.random.default_rng(0)
    z, y, x = np.ogrid[: LOW[0], : LOW[1], : LOW[2]]
    logits = np.empty((CLASSES, *LOW), np.float32)
    logits[0] = 1
    for channel in logits[1:]:
        centre, radius = rng.uniform(0.2, 0.8, 3) * LOW, rng.uniform(8, 45)
        channel[...] = radius - np.sqrt((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2)
    return logits


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("separate_z", [None, False])
def test_labels_from_logits(regions: bool, separate_z: bool | None) -> None:
    logits, resampling = balls(), Resampling("spline", 1, 0, separate_z)
    decoding = Decoding(regions, tuple(range(CLASSES)), ("class",) * CLASSES, CLASSES - 1)
    found = {}

    def ours() -> None:
        maps = axis_maps(resampling, LOW, SHAPE, LOW_SPACING, SPACING)
        assert maps is not None
        blocks = (logits[:, z : z + 64] for z in range(0, LOW[0], 64))
        found["ours"] = export_labels(blocks, maps, decoding, threads=2)

    def stock() -> None:
        full = resample_data_or_seg_to_shape(
            logits, SHAPE, LOW_SPACING, SPACING, order=1, order_z=0, force_separate_z=separate_z
        )
        if regions:
            labels = np.zeros(SHAPE, np.uint8)
            for value, channel in enumerate(full):
                labels[channel > 0] = value
            found["stock"] = labels
        else:
            found["stock"] = full.argmax(0)

    seconds, stock_seconds, ratio = paired_seconds(ours, stock, runs=3)
    different = float((found["ours"] != found["stock"]).mean())
    print(
        f"\nexport, {'regions' if regions else 'argmax'}, separate_z {separate_z}: {seconds:.2f} s, nnU-Net "
        f"{stock_seconds:.1f} s, {1 / ratio:.0f}x as fast; {different:.1e} of the voxels differ"
    )
    assert different <= 1e-6


def test_image_to_the_networks_resolution() -> None:
    image = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)
    rule, found = Resampling("spline", 3, 0, None), {}

    def ours() -> None:
        found["ours"] = resample_image(image, LOW, SPACING, LOW_SPACING, rule)

    def stock() -> None:
        found["stock"] = resample_data_or_seg_to_shape(image, LOW, SPACING, LOW_SPACING, order=3, force_separate_z=None)

    seconds, stock_seconds, ratio = paired_seconds(ours, stock, runs=3)
    difference = float(np.abs(found["ours"] - found["stock"]).max())
    print(f"\ninput: {seconds:.2f} s, nnU-Net {stock_seconds:.2f} s, {1 / ratio:.1f}x as fast; {difference:.1e} off")
    assert difference <= 1e-4
