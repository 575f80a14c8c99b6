"""Settings of runs, results and stores as plain values: whose they are, and where they differ."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

_WIDEST = 90  # characters of a value in a table
NOTHING = "nothing"  # shown for a key that one side lacks
# Keys that tell the command of settings or results that version 0.1 wrote without saying it.
_SIGNS = {"task": "finetune", "C": "svm", "masking": "pretrain", "loss": "pretrain"}


class Difference(NamedTuple):
    """A setting that two sides do not share."""

    there: Any
    here: Any


def command_of(values: Mapping[str, Any]) -> str | None:
    """The command that settings or a result belong to; None where they are no run's."""
    if "command" in values:
        return str(values["command"])
    return next((command for sign, command in _SIGNS.items() if sign in values), None)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested tables."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def flat_rows(values: Mapping[str, Any]) -> list[list[str]]:
    """Settings or provenance as rows of name and value, nested keys dotted."""
    return [[name, textwrap.shorten(str(value), _WIDEST)] for name, value in flat(values)]


def differences(
    there: Mapping[str, Any], here: Mapping[str, Any], ignored: Collection[str] = ()
) -> dict[str, Difference]:
    """Settings that differ, by dotted key in order.

    Args:
        there, here: two sides, as plain values.
        ignored: dotted keys of settings or whole tables that may differ.
    """
    ours, theirs = dict(flat(here)), dict(flat(there))
    return {
        key: Difference(theirs.get(key, NOTHING), ours.get(key, NOTHING))
        for key in dict.fromkeys([*ours, *theirs])
        if ours.get(key, NOTHING) != theirs.get(key, NOTHING)
        and not any(key == name or key.startswith(f"{name}.") for name in ignored)
    }


def told(found: Mapping[str, Difference], holder: str) -> str:
    """Differences in one line; `holder` names the other side, such as `the store`."""
    return "; ".join(
        f"{key}: {holder} has {there}, this command expects {here}"
        for key, (there, here) in found.items()
    )
