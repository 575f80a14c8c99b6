"""I2P-MAE as a two-stage pipeline: 2D features cached once, 3D encoders trained from the cache.

`open_cache` inspects a store; `load_encoder`, `load_classifier` and `load_segmenter` bring back
trained networks.
Everything is imported on first use, so `import i2pmae` is immediate.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_classifier", "load_encoder", "load_segmenter", "open_cache"]

if TYPE_CHECKING:
    from i2pmae.loading import load_classifier, load_encoder, load_segmenter
    from i2pmae.store import open_cache

_HOMES = {
    "load_classifier": "i2pmae.loading",
    "load_encoder": "i2pmae.loading",
    "load_segmenter": "i2pmae.loading",
    "open_cache": "i2pmae.store",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'i2pmae' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
