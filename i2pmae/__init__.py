"""I2P-MAE as a two-stage pipeline: 2D features cached once, 3D encoders trained from the cache.

Every command is a function with the same settings: `extract_2d`, `pretrain`, `finetune`, ... .
`open_cache` inspects a store; `load_encoder`, `load_classifier` and `load_segmenter` bring back
trained networks, also from the Hub. Everything is imported on first use, so `import i2pmae` is
immediate.
"""

from typing import TYPE_CHECKING, Any

from i2pmae.version import __version__

if TYPE_CHECKING:
    from i2pmae.checkpoints.networks import (
        HubClassifier,
        HubEncoder,
        HubSegmenter,
        load_classifier,
        load_encoder,
        load_segmenter,
    )
    from i2pmae.store import open_cache

_HOMES = {
    "HubClassifier": "i2pmae.checkpoints.networks",
    "HubEncoder": "i2pmae.checkpoints.networks",
    "HubSegmenter": "i2pmae.checkpoints.networks",
    "load_classifier": "i2pmae.checkpoints.networks",
    "load_encoder": "i2pmae.checkpoints.networks",
    "load_segmenter": "i2pmae.checkpoints.networks",
    "open_cache": "i2pmae.store",
}
_COMMANDS = (
    *("extract_2d", "pretrain", "svm", "evaluate", "finetune", "predict", "fewshot_split"),
    *("compare", "check_data", "embed", "similar", "zero_shot", "show", "write_report"),
    *("inspect", "verify", "copy", "convert", "export", "models", "demo", "doctor"),
)
__all__ = [
    "__version__",
    "HubClassifier",
    "HubEncoder",
    "HubSegmenter",
    "load_classifier",
    "load_encoder",
    "load_segmenter",
    "open_cache",
    *_COMMANDS,
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        found = getattr(import_module(_HOMES[name]), name)
    elif name in _COMMANDS:
        found = import_module("i2pmae.api").command_function(name)
    else:
        raise AttributeError(f"module 'i2pmae' has no attribute '{name}'")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
