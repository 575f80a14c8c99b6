"""Suggestions for misspelled names."""

from collections.abc import Sequence

_LISTED = 8  # valid names that are listed when none is near


def suggestion(wrong: str, known: Sequence[str], *, n: int = 1) -> str:
    """Name the nearest valid names, or list some if none is near.

    Args:
        wrong: the misspelled name.
        known: all valid names.
        n: largest number of suggestions.

    Returns:
        `did you mean 'a' or 'b'?`, `there are: a, b, c`, or the empty string if nothing is known.
    """
    from difflib import get_close_matches

    folded = {name.lower(): name for name in reversed(known)}
    near = [folded[name] for name in get_close_matches(wrong.lower(), folded, n=n)]
    if near:
        quoted = " or ".join(repr(name) for name in near)
        return f"did you mean {quoted}?"
    if not known:
        return ""
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return f"there are: {', '.join(known[:_LISTED])}{more}"
