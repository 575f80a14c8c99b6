"""Shapes of tensors, checked where users hand them in."""

from torch import Tensor


def require_shape(name: str, values: Tensor, *sizes: int | str) -> None:
    """Raise an error that names both shapes unless a tensor has the expected one.

    Args:
        name: of the tensor.
        values: the tensor.
        sizes: of its dimensions; those given by a letter may have any size.

    Raises:
        ValueError: `points: (B, N, 3) expected, (1024, 3) given`.
    """
    fits = values.ndim == len(sizes) and all(
        isinstance(size, str) or there == size
        for size, there in zip(sizes, values.shape, strict=True)
    )
    if not fits:
        expected = ", ".join(map(str, sizes)) + "," * (len(sizes) == 1)
        raise ValueError(f"{name}: ({expected}) expected, {tuple(values.shape)} given")
