"""Files on disk -> points, label and id; one file per layout, and procedural shapes."""

from i2pmae.datasets.check import Survey, survey
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
    "open_source",
    "survey",
]
