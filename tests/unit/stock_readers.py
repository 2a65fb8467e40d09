"""nnU-Net's own readers, and what ours must agree with them in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from nnunet_partial.inference.reading.geometry import ItkGeometry, NibabelGeometry
from nnunet_partial.inference.reading.image_reader import Image, read_image

STOCK = {
    reader.__name__: reader
    for reader in (SimpleITKIO, SimpleITKIOWithReorient, NibabelIO, NibabelIOWithReorient, NaturalImage2DIO, Tiff3DIO)
}


def assert_as_nnunet(files: list[Path], reader: str) -> Image:
    expected, properties = STOCK[reader]().read_images([str(file) for file in files])
    image = read_image(files, reader)
    assert image.data.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(image.data, expected)
    assert image.spacing == tuple(properties["spacing"])
    if isinstance(image.geometry, ItkGeometry):
        assert image.geometry.spacing_mm == properties["sitk_stuff"]["spacing"]
        assert image.geometry.origin_mm == properties["sitk_stuff"]["origin"]
        assert image.geometry.direction == properties["sitk_stuff"]["direction"]
        assert image.geometry.original_orientation == properties["sitk_stuff"].get("original_orientation")
    if isinstance(image.geometry, NibabelGeometry):
        np.testing.assert_array_equal(image.geometry.affine, properties["nibabel_stuff"]["original_affine"])
        if reader.endswith("Reorient"):
            turned = image.geometry.reoriented_affine
            np.testing.assert_array_equal(turned, properties["nibabel_stuff"]["reoriented_affine"])
    return image
