"""Files on disk -> points, label and id; one file per layout, and procedural shapes."""

from i2pmae.datasets.check import Survey, survey, survey_headers
from i2pmae.datasets.few_shot import few_shot_episode, few_shot_folds
from i2pmae.datasets.opening import (
    LAYOUTS,
    Located,
    detect_layout,
    locate,
    open_labeled_splits,
    open_source,
    open_split,
    require_labels,
)
from i2pmae.datasets.source import Shape, ShapeSource

__all__ = [
    "LAYOUTS",
    "Located",
    "Shape",
    "ShapeSource",
    "Survey",
    "detect_layout",
    "few_shot_episode",
    "few_shot_folds",
    "locate",
    "open_labeled_splits",
    "open_source",
    "open_split",
    "require_labels",
    "survey",
    "survey_headers",
]
