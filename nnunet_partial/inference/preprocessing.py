"""nnU-Net's preprocessing of an image in less time: transpose, crop to what is not 0, normalise, resample.

Models of CT and MR together normalise by modality before all that, as their datasets were when they were merged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_partial.errors import PartialError, VolumeError
from nnunet_partial.inference.model.modality_rules import model_rules, normalised_image
from nnunet_partial.inference.model.plan import Normalization, PredictionPlan
from nnunet_partial.inference.resampling import AxisMap, axis_maps, resample_image, resampled_shape
from nnunet_partial.process_limits import memory_bytes

__all__ = ["Prepared", "prepare"]

_SMALLEST_SD = 1e-8
_MOST_VOXELS = 2**32
"""Of an image as the network sees it: two metres in slices of 0.5 mm, 1024 x 1024 voxels each."""
_MOST_GROWTH = 10_000
"""Voxels that one voxel may become: slices of 10 mm and pixels of 1 mm, at 0.1 mm."""

FloatArray = NDArray[np.float32]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image as the network sees it, and the way back.

    Attributes:
        data: float32 (C, z, y, x), transposed, cropped, normalised and resampled.
        shape: Voxels of the whole image, transposed.
        box: The part of it that was kept.
        spacing_mm: Voxel size of the image, transposed.
        network_spacing_mm: Voxel size of `data`.
    """

    data: FloatArray
    shape: tuple[int, ...]
    box: Box
    spacing_mm: tuple[float, ...]
    network_spacing_mm: tuple[float, ...]

    @property
    def cropped_shape(self) -> tuple[int, ...]:
        """Voxels of the part that was kept."""
        return tuple(part.stop - part.start for part in self.box)

    def maps(self, plan: PredictionPlan) -> tuple[AxisMap, AxisMap, AxisMap] | None:
        """From voxels of `data` to voxels of the cropped image; None where logits are resampled by splines.

        Args:
            plan: Says how logits are resampled.
        """
        return axis_maps(
            plan.logit_resampling,
            self.data.shape[1:],
            self.cropped_shape,
            self.network_spacing_mm,
            self.spacing_mm,
        )

    def restored(self, cropped: NDArray[Any], plan: PredictionPlan, outside: float = 0) -> NDArray[Any]:
        """An array of the cropped image in the whole one, in the reader's axis order.

        Args:
            cropped: (z, y, x).
            plan: Knows the axis order.
            outside: What is written elsewhere.
        """
        if cropped.shape == self.shape:
            return cropped.transpose(plan.transpose_backward)
        whole = np.full(self.shape, outside, cropped.dtype)
        whole[self.box] = cropped
        return whole.transpose(plan.transpose_backward)


def prepare(
    image: FloatArray, spacing_mm: Sequence[float], plan: PredictionPlan, modality: str | None = None
) -> Prepared:
    """Prepares an image for the network.

    Args:
        image: (C, z, y, x) in the reader's axis order; not changed.
        spacing_mm: Voxel size along z, y, x.
        plan: Of the model.
        modality: Of the image, or 'normalised', where the model normalises by modality.

    Raises:
        PartialError: The number of channels or axes or the modality does not fit, or there is no voxel.
        VolumeError: The voxel size is implausible: the resampled image would be larger than a scan, or than memory.
    """
    _check(image, spacing_mm, plan)
    image = normalised_image(image, modality, model_rules(plan.dataset_json))
    turned = image.transpose(0, *(axis + 1 for axis in plan.transpose_forward))
    spacing = tuple(float(spacing_mm[axis]) for axis in plan.transpose_forward)
    box = _nonzero_box(turned)
    cropped = turned[(slice(None), *box)]
    network_spacing = (*spacing[: 3 - len(plan.spacing_mm)], *plan.spacing_mm)
    _check_size(cropped.shape, spacing, network_spacing)
    shape = resampled_shape(cropped.shape[1:], spacing, network_spacing)
    if min(shape) < 1:
        raise PartialError(
            f"voxel size: {_text(spacing)} mm and {cropped.shape[1:]} voxels leave no voxel at the network's "
            f"{_text(network_spacing)} mm; check the image's header"
        )
    mask = _filled_mask(cropped) if any(n.within_mask for n in plan.normalizations) else None
    channels = [
        _normalised(np.array(channel, np.float32, order="C"), mask, rule)
        for channel, rule in zip(cropped, plan.normalizations, strict=True)
    ]
    data = np.concatenate(
        [resample_image(c[None], shape, spacing, network_spacing, plan.image_resampling) for c in channels]
    )
    return Prepared(data, turned.shape[1:], box, spacing, network_spacing)


def _text(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


def _check(image: FloatArray, spacing_mm: Sequence[float], plan: PredictionPlan) -> None:
    if image.ndim != 4 or len(spacing_mm) != 3:
        raise PartialError(
            f"image: expected axes (channel, z, y, x) and three voxel sizes, found shape {image.shape} and "
            f"{len(spacing_mm)} voxel sizes; a 2D image has one z"
        )
    if len(image) != len(plan.channel_names):
        raise PartialError(
            f"image: expected {len(plan.channel_names)} channels ({', '.join(plan.channel_names)}), found {len(image)}"
        )
    if min(image.shape) < 1:
        raise PartialError(f"image: expected at least one voxel along each axis, found shape {image.shape[1:]}")


def _check_size(shape: Sequence[int], spacing: Sequence[float], network_spacing: Sequence[float]) -> None:
    """Refuses an image (C, z, y, x) that would become too large, before anything of that size is asked for."""
    voxels = math.prod(shape[1:])
    wanted = voxels * math.prod(mm / new for mm, new in zip(spacing, network_spacing, strict=True))
    # channels are resampled one by one and then joined, so that for a moment there are two of each
    in_memory = memory_bytes() // (2 * shape[0] * np.dtype(np.float32).itemsize)
    most = min(_MOST_VOXELS, _MOST_GROWTH * voxels, in_memory)
    if not wanted <= most:  # not the other way round: NaN is refused as well
        raise VolumeError(
            f"voxel size: found {_text(spacing)} mm, which makes {wanted:.3g} voxels at the network's "
            f"{_text(network_spacing)} mm of {voxels} in the image; expected at most {most:.3g} "
            f"({_MOST_GROWTH} from one voxel, {_MOST_VOXELS:.3g} in all, and what memory holds); check the voxel size "
            "in the image's header"
        )


def _nonzero_box(image: FloatArray) -> Box:
    """The smallest box around all voxels that are not 0 in some channel; everything where all are 0.

    nnU-Net fills holes before, which does not change the box.
    """
    box = []
    for axis in range(1, 4):
        others = tuple(a for a in range(4) if a != axis)
        used = np.flatnonzero(_any_nonzero(image, axis, others))
        box.append(slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, image.shape[axis]))
    return box[0], box[1], box[2]


def _any_nonzero(image: FloatArray, axis: int, others: tuple[int, ...]) -> NDArray[np.bool_]:
    # the rims usually decide: whole planes are looked at only as far as they are 0
    moved = np.moveaxis(image, axis, 0)
    found = np.ones(len(moved), bool)
    for indices in (range(len(moved)), range(len(moved) - 1, -1, -1)):
        for index in indices:
            found[index] = bool(np.any(moved[index]))
            if found[index]:
                break
    return found


def _filled_mask(image: FloatArray) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_fill_holes

    return np.asarray(binary_fill_holes((image != 0).any(0)), bool)


def _z_score(image: FloatArray, mask: NDArray[np.bool_] | None, _: Mapping[str, float]) -> FloatArray:
    if mask is None:
        image -= image.mean()
        image /= max(image.std(), _SMALLEST_SD)
        return image
    inside = image[mask]
    image[mask] = (inside - inside.mean()) / max(inside.std(), _SMALLEST_SD)
    return image


def _ct(image: FloatArray, _: NDArray[np.bool_] | None, statistics: Mapping[str, float]) -> FloatArray:
    np.clip(image, statistics["percentile_00_5"], statistics["percentile_99_5"], out=image)
    image -= np.float32(statistics["mean"])
    image /= np.float32(max(statistics["std"], _SMALLEST_SD))
    return image


def _none(image: FloatArray, _: NDArray[np.bool_] | None, __: Mapping[str, float]) -> FloatArray:
    return image


def _rescale(image: FloatArray, _: NDArray[np.bool_] | None, __: Mapping[str, float]) -> FloatArray:
    image -= image.min()
    image /= max(image.max(), _SMALLEST_SD)
    return image


def _rgb(image: FloatArray, _: NDArray[np.bool_] | None, __: Mapping[str, float]) -> FloatArray:
    if image.min() < 0 or image.max() > 255:
        raise PartialError(
            f"image: expected RGB values of 0 to 255, found {image.min():g} to {image.max():g}; the model was trained "
            "on photographs"
        )
    image /= 255.0
    return image


_SCHEMES: dict[str, Callable[[FloatArray, NDArray[np.bool_] | None, Mapping[str, float]], FloatArray]] = {
    "CTNormalization": _ct,
    "ZScoreNormalization": _z_score,
    "NoNormalization": _none,
    "RescaleTo01Normalization": _rescale,
    "RGBTo01Normalization": _rgb,
}


def _normalised(image: FloatArray, mask: NDArray[np.bool_] | None, rule: Normalization) -> FloatArray:
    """A channel normalised in place."""
    if rule.scheme not in _SCHEMES:
        raise PartialError(
            f"normalization {rule.scheme!r}: expected one of {', '.join(sorted(_SCHEMES))}; use nnUNetv2_predict for "
            "this model"
        )
    return _SCHEMES[rule.scheme](image, mask if rule.within_mask else None, rule.statistics)
