"""Files on disk -> points, label and id; one file per layout, and procedural shapes."""

from i2pmae.datasets.check import Survey, find_bad_shapes, survey
from i2pmae.datasets.few_shot import few_shot_episode, few_shot_folds
from i2pmae.datasets.opening import LAYOUTS, detect_layout, open_source
from i2pmae.datasets.source import Shape, ShapeSource

__all__ = [
    "LAYOUTS",
    "Shape",
    "ShapeSource",
    "Survey",
    "detect_layout",
    "few_shot_episode",
    "few_shot_folds",
    "find_bad_shapes",
    "open_source",
    "survey",
]
