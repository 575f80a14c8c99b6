"""Bytes per shape of a store with 3 x 14 x 14 x 512 features, and what they keep of the features.

Shapes are rendered at 224 pixels and encoded by a real image model; a store is written as stage
one writes it and read back as training reads it. Sizes are those of the files, compared with
dense float32 features. `cosine`: between the semantic targets (features back-projected to points)
of the store and those of the float32 features, mean over shapes, views and points;
`cosine_lowest_1_percent`: the value that 1% of them stay below.

Networks whose weights can be had without a download have another grid and fewer channels. Their
grid is brought to 14 x 14 by nearest neighbors, their channels to 512 by a fixed random matrix
with orthonormal rows: it keeps all distances and angles, and leaves the values no narrower and no
more alike than a real network's. With `--image-model ViT-B-16-quickgelu` and CLIP's weights
nothing is changed.

`--options` also measures smaller encodings that the store does not offer.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from i2pmae.datasets import open_source
from i2pmae.device import pick_device, pick_dtype
from i2pmae.geometry.projection import (
    PixelMap,
    back_project,
    fit_pixels,
    patches_read,
    pixels,
    render,
    view_axes,
)
from i2pmae.geometry.transforms import normalize_to_unit_sphere
from i2pmae.image_model import ImageModel, load_image_model
from i2pmae.store.quantize import encode, quantize, round_points
from i2pmae.store.reader import StoreReader
from i2pmae.store.schema import DONE, StoreSpec
from i2pmae.store.writer import open_writer

IMAGE_SIZE, GRID, CHANNELS, VIEWS = 224, (14, 14), 512, 3
FLOAT32_BYTES = VIEWS * GRID[0] * GRID[1] * CHANNELS * 4
SUM_POINTS = 2048  # drawn, as in the paper
TARGETS = 512  # points per shape at which targets are compared
BATCH = 8
