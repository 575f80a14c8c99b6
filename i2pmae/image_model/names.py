"""Errors for names that no library knows, with the nearest ones it does."""

import difflib
from collections.abc import Sequence

from i2pmae.errors import ConfigError, WeightsError

PACKAGED = "efficientnet-lite0-packaged"


def unknown_network(name: str, known: Sequence[str]) -> ConfigError:
    """The error for a misspelled image model; a name that only lacks `timm:` is found as well."""
    near = _nearest(name, known) or _nearest(f"timm:{name}", known)
    return ConfigError(
        f"no image model is called {name!r}{near}; expected an open_clip name, "
        f"timm:NAME or {PACKAGED}"
    )


def unknown_tag(name: str, pretrained: str, tags: Sequence[str]) -> WeightsError:
    """The error for weights that a network does not have."""
    listed = ", ".join(tags[:8]) + (", ..." if len(tags) > 8 else "")
    known = f"it has {listed}" if tags else "it has no published weights"
    return WeightsError(
        f"{name} has no weights {pretrained!r}{_nearest(pretrained, tags)}: {known}; "
        "pass one of them, a weights file or 'random' with --pretrained"
    )


def _nearest(name: str, known: Sequence[str]) -> str:
    """A question, or nothing where no name is near."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    near = [key for key in by_lower if key.startswith(name.lower())][:3]
    near = near or difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(by_lower[key] for key in near)}?)" if near else ""
