"""Sliding windows against nnU-Net's predictor and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window

from nnunet_partial.errors import PartialError
from nnunet_partial.inference.backends.backend import NumpyArrays
from nnunet_partial.inference.windows import importance, sliding_logits, window_count, window_starts


class Local(NumpyArrays):
    """A network that doubles the first channel and adds a ramp over the window, so that overlaps matter."""

    outputs = 2
    description = "ramp"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict(self, patches):
        self.batches.append(len(patches))
        first = patches[:, 0]
        ramp = np.arange(first.shape[-1], dtype=np.float32) + 10 * np.arange(first.shape[1], dtype=np.float32).reshape(
            -1, *[1] * (first.ndim - 2)
        )
        return np.stack([2 * first, first + ramp], 1).astype(np.float32)


def whole(image, backend, patch, **options):
    blocks = [block.copy() for block in sliding_logits(image, backend, patch, **options)]
    return np.concatenate(blocks, axis=1)


@pytest.mark.parametrize("seed", range(30))
def test_starts_are_those_of_nnunet(seed):
    rng = np.random.default_rng(seed)
    window = int(rng.integers(1, 40))
    size, step = window + int(rng.integers(0, 100)), float(rng.uniform(0.1, 1))
    assert window_starts(size, window, step) == compute_steps_for_sliding_window((size,), (window,), step)[0]


@pytest.mark.parametrize("patch", [(1,), (8, 9), (16, 12, 20), (40, 8, 8), (1, 16, 16)])
def test_importance_is_that_of_nnunet(patch):
    expected = compute_gaussian(patch, value_scaling_factor=10, device=torch.device("cpu")).float().numpy()
    np.testing.assert_array_equal(importance(patch), expected)
    assert importance(patch).max() == 10
    assert importance(patch).min() > 0


@pytest.mark.parametrize("shape", [(8, 8, 8), (5, 9, 12), (17, 8, 11), (20, 21, 3), (1, 1, 1)])
@pytest.mark.parametrize("step", [0.5, 0.3, 1.0])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_weighted_mean_equals_a_dense_computation(shape, step, batch_size):
    rng = np.random.default_rng(0)
    image, patch, backend = rng.normal(size=(1, *shape)).astype(np.float32), (8, 6, 8), Local()
    found = whole(image, backend, patch, step=step, batch_size=batch_size)
    below = [max(0, p - n) // 2 for n, p in zip(shape, patch, strict=True)]
    padded = np.zeros([max(n, p) for n, p in zip(shape, patch, strict=True)], np.float32)
    inside = tuple(slice(b, b + n) for b, n in zip(below, shape, strict=True))
    padded[inside] = image[0]
    sums, weights = np.zeros((2, *padded.shape)), np.zeros(padded.shape)
    gauss = importance(patch).astype(float)
    for start in itertools.product(*(window_starts(n, p, step) for n, p in zip(padded.shape, patch, strict=True))):
        box = tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))
        sums[(slice(None), *box)] += backend.predict(padded[box][None, None])[0] * gauss
        weights[box] += gauss
    expected = (sums / weights)[(slice(None), *inside)]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_windows_are_added_while_the_next_are_predicted():
    """As long as one batch waits, its logits must stay; an error while adding must come out."""

    class Reuses(Local):
        def __init__(self):
            super().__init__()
            self.buffers = itertools.cycle([np.empty((1, 2, 8, 8, 8), np.float32) for _ in range(2)])

        def predict(self, patches):
            found = next(self.buffers)
            found[...] = super().predict(patches)
            return found

    image = np.random.default_rng(3).normal(size=(1, 20, 21, 22)).astype(np.float32)
    alone = Local()
    alone.adds_beside = False
    np.testing.assert_array_equal(whole(image, Reuses(), (8, 8, 8)), whole(image, alone, (8, 8, 8)))

    class TooManyChannels(Local):
        outputs = 3

    with pytest.raises(ValueError, match="could not be broadcast"):
        whole(image, TooManyChannels(), (8, 8, 8))


def test_planes_stream_out_and_windows_are_counted():
    image, backend = np.zeros((1, 20, 8, 16), np.float32), Local()
    blocks = list(sliding_logits(image, backend, (8, 8, 8), step=0.5))
    assert [b.shape[1] for b in blocks] == [4, 4, 4, 8]
    assert sum(backend.batches) == window_count((20, 8, 16), (8, 8, 8), 0.5) == 4 * 3
    assert window_count((3, 8, 8), (8, 8), 0.5) == 3


def test_slices_of_a_2d_network():
    rng = np.random.default_rng(1)
    image = rng.normal(size=(1, 3, 10, 7)).astype(np.float32)

    class Doubles(Local):
        outputs = 1

        def predict(self, patches):
            assert patches.shape[1:] == (1, 8, 8)
            return 2 * patches

    np.testing.assert_allclose(whole(image, Doubles(), (8, 8), batch_size=2), 2 * image, rtol=1e-5)


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("window", [0, 3, 8])
@pytest.mark.filterwarnings("error")
def test_infinite_logits_are_refused_before_their_planes_are_given(wrong, window):
    class Overflows(Local):
        def predict(self, patches):
            logits = super().predict(patches)
            if len(self.batches) == window + 1:
                logits[0, 1, 4, 4, 4] = wrong
            return logits

    given = []
    with pytest.raises(
        PartialError, match=r"finite numbers, found 1 of \d+ that are infinite or NaN.*--precision fp32"
    ):
        for block in sliding_logits(np.zeros((1, 24, 8, 16), np.float32), Overflows(), (8, 8, 8)):
            given.append(block.copy())
    # three windows a row, and rows begin at 0, 4, 8, ...; the voxel is in the second plane that its row completes
    assert len(given) == window // 3 + 1
    assert np.isfinite(given).all()


@pytest.mark.filterwarnings("error")
def test_a_sum_that_overflows_does_not_count_as_infinite_logits():
    class Large(Local):
        def predict(self, patches):
            return np.full((len(patches), 2, *patches.shape[2:]), 1e36, np.float32)

    found = whole(np.zeros((1, 8, 8, 8), np.float32), Large(), (8, 8, 8))
    np.testing.assert_allclose(found, 1e36, rtol=1e-5)


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_mirroring_is_the_mean_over_all_flips(axes):
    rng = np.random.default_rng(2)
    image, backend = rng.normal(size=(1, 6, 6, 6)).astype(np.float32), Local()
    expected = []
    for flips in itertools.chain.from_iterable(itertools.combinations(axes, n) for n in range(len(axes) + 1)):
        where = [f + 2 for f in flips]
        expected.append(np.flip(backend.predict(np.flip(image[None], where)), where)[0])
    found = whole(image, backend, (6, 6, 6), mirror_axes=axes)
    np.testing.assert_allclose(found, np.mean(expected, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mirrored", [False, True])
def test_equals_nnunets_predictor(mirrored):
    """With a convolution as network; nnU-Net sums in half precision, which is too coarse for the rim of a volume."""
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 2, 3, padding=1)

    class Convolution(NumpyArrays):
        outputs, description = 2, "convolution"

        def predict(self, patches):
            with torch.no_grad():
                return network(torch.from_numpy(np.ascontiguousarray(patches))).numpy()

    class Configuration:
        patch_size = (8, 8, 8)

    class Labels:
        num_segmentation_heads = 2

    predictor = nnUNetPredictor(use_mirroring=mirrored, device=torch.device("cpu"), allow_tqdm=False)
    predictor.network, predictor.configuration_manager, predictor.label_manager = network, Configuration(), Labels()
    predictor.allowed_mirroring_axes = (0, 2)
    image = np.random.default_rng(3).normal(size=(1, 19, 8, 13)).astype(np.float32)
    expected = predictor.predict_sliding_window_return_logits(torch.from_numpy(image)).float().numpy()
    found = whole(image, Convolution(), (8, 8, 8), mirror_axes=(0, 2) if mirrored else ())
    inner = (slice(None), *[slice(2, -2)] * 3)
    np.testing.assert_allclose(found[inner], expected[inner], atol=5e-3)
