"""What frozen features are good for, measured shape by shape.

Every measure is an array of percentages, one per shape: its mean is the usual figure, and
`bootstrap` says how far that may be off.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating]
Labels = NDArray[np.integer]
Percent = NDArray[np.float64]

_PROBE_DECAY = 0.01
_PROBE_BATCH, _PROBE_STEPS = 64, 4000
_MEMBERS, _NARROWEST = 4, 64  # probes whose mean is taken, and units of the smallest
_PASSES = (20, 300)  # over the features, fewest and most
_UNLIKELY = 5.0  # less log-odds of a class that was never seen
_AT_ONCE = 1000  # shapes whose cosines with all others are held


def standardized(train_x: Features, *others: Features) -> list[Features]:
    """Features by the mean and standard deviation that each channel has in the training shapes."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train_x)
    return [scaler.transform(part) for part in (train_x, *others)]


def hidden_layer_probe(
    features: Features,
    labels: Labels,
    n_classes: int,
    width: int,
    weights: Features | None,
    seed: int,
) -> list[tuple[Features, Features]]:
    """Two layers from features to logits, with a ReLU between them.

    The mean of four networks of a quarter of the width each, which are one of the whole width: what
    one of them has by chance counts less.

    Args:
        features: (S, C).
        labels: (S,) of two classes or more.
        n_classes: K; classes without a shape get no weight.
        width: H, of the hidden layer.
        weights: (K,) by which a shape of each class counts; None: 1.
        seed: of initial weights and order.

    Returns:
        Weights (H, C) and biases (H,) for features as they are, then (K, H) and (K,).
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features)
    inputs = scaler.transform(features).astype(np.float32)
    sample_weights = None if weights is None else weights[labels]
    known = np.unique(labels)
    inner, outer = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopping at the last pass is intended
        members = np.array_split(np.arange(width), np.clip(width // _NARROWEST, 1, _MEMBERS))
        for number, units in enumerate(members):
            model = MLPClassifier(
                (len(units),),
                alpha=_PROBE_DECAY,
                batch_size=min(_PROBE_BATCH, len(labels)),
                max_iter=int(np.clip(_PROBE_STEPS * _PROBE_BATCH // len(labels), *_PASSES)),
                random_state=seed * _MEMBERS + number,
            )
            model.fit(inputs, labels, sample_weights)
            (first, last), (first_bias, last_bias) = model.coefs_, model.intercepts_
            if last.shape[1] == 1:  # of two classes scikit-learn keeps the second one's log-odds
                last, last_bias = np.hstack([-last, last]) / 2, np.array([-1, 1]) * last_bias / 2
            inner.append((first.T, first_bias))
            outer.append((last.T / len(members), last_bias / len(members)))
    first, first_bias = (np.concatenate(parts) for parts in zip(*inner, strict=True))
    last, last_bias = np.hstack([part for part, _ in outer]), sum(bias for _, bias in outer)
    out, out_bias = np.zeros((n_classes, width)), np.full(n_classes, last_bias.min() - _UNLIKELY)
    out[known], out_bias[known] = last, last_bias
    first = first / scaler.scale_
    return [(first, first_bias - first @ scaler.mean_), (out, out_bias)]


def few_labels(
    train_x: Features,
    train_y: Labels,
    test_x: Features,
    test_y: Labels,
    n_labels: int,
    *,
    draws: int = 20,
) -> Percent:
    """How often the nearest class mean of a few labeled shapes is right, over draws.

    Features are standardized over all training shapes, which takes no labels. The same shapes are
    drawn whatever the features.

    Args:
        train_x: (S, C) features of the training shapes.
        train_y: (S,) labels.
        test_x: (T, C) features of the test shapes.
        test_y: (T,) labels.
        n_labels: labeled shapes of each class; all of a class that has fewer.
        draws: how often they are drawn.

    Returns:
        (T,) percent of the draws.
    """
    from sklearn.metrics import pairwise_distances_argmin

    train_x, test_x = standardized(train_x, test_x)
    rng, classes = np.random.default_rng(0), np.unique(train_y)
    members = [np.flatnonzero(train_y == k) for k in classes]
    hits = np.zeros(len(test_y))
    for _ in range(draws):
        drawn = [rng.choice(some, min(n_labels, len(some)), replace=False) for some in members]
        means = np.stack([train_x[some].mean(axis=0) for some in drawn])
        hits += classes[pairwise_distances_argmin(test_x, means)] == test_y
    return 100 * hits / draws


def nearest_neighbors(
    train_x: Features, train_y: Labels, test_x: Features, test_y: Labels, k: int = 5
) -> Percent:
    """Whether the k nearest training shapes name a test shape's class.

    Nearest by cosine of standardized features; nearer ones have more weight.

    Returns:
        (T,) 100 or 0.
    """
    from sklearn.neighbors import KNeighborsClassifier

    train_x, test_x = standardized(train_x, test_x)
    k = min(k, len(train_y))
    classifier = KNeighborsClassifier(k, weights="distance", metric="cosine", algorithm="brute")
    predictions = classifier.fit(train_x, train_y).predict(test_x)
    return np.where(predictions == test_y, 100.0, 0.0)


def retrieval(features: Features, labels: Labels) -> dict[str, Percent]:
    """Every shape looks for those of its class among all others.

    Ranked by cosine of standardized features.

    Args:
        features: (S, C).
        labels: (S,).

    Returns:
        `p_at_1` and `p_at_5`, the share of the first (up to) 5 that are of its class, and `map`,
        the average precision: (S,) percent each, NaN for shapes that are alone in their class.
    """
    directions = _directions(standardized(features)[0])
    ranks = np.arange(1, len(labels))
    found = {name: np.full(len(labels), np.nan) for name in ("p_at_1", "p_at_5", "map")}
    for start in range(0, len(labels), _AT_ONCE):
        queries = np.arange(start, min(start + _AT_ONCE, len(labels)))
        cosines = directions[queries] @ directions.T
        cosines[queries - start, queries] = -np.inf
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :-1]  # without the query
        right = labels[order] == labels[queries][:, None]
        n_right = right.sum(axis=1)
        some = queries[n_right > 0]
        right, n_right = right[n_right > 0], n_right[n_right > 0]
        precision = np.cumsum(right, axis=1) / ranks
        found["p_at_1"][some] = 100 * right[:, 0]
        found["p_at_5"][some] = 100 * right[:, :5].mean(axis=1)
        found["map"][some] = 100 * (precision * right).sum(axis=1) / n_right
    return found


def retrieval_by_chance(labels: Labels) -> dict[str, Percent]:
    """What `retrieval` of a random order gives on average."""
    _, group_of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    n_right, n = np.where(counts > 1, counts - 1.0, np.nan)[group_of], len(labels) - 1
    harmonic = (1 / np.arange(1, n + 1)).sum()
    share = 100 * n_right / n
    others = (n_right - 1) * (n - harmonic) / max(n - 1, 1)  # right ones before a right one
    return {"p_at_1": share, "p_at_5": share, "map": 100 * (harmonic + others) / n}


def identification(first: Features, second: Features) -> Percent:
    """Whether one half of a shape's points finds the other half among those of all shapes.

    Args:
        first: (S, C) features of the first halves, which look.
        second: (S, C) features of the second halves.

    Returns:
        (S,) 100 where the nearest by cosine of standardized features is its own, else 0.
    """
    wanted, looking = map(_directions, standardized(second, first))
    hits = [
        (looking[start : start + _AT_ONCE] @ wanted.T).argmax(axis=1)
        for start in range(0, len(first), _AT_ONCE)
    ]
    return np.where(np.concatenate(hits) == np.arange(len(first)), 100.0, 0.0)


def folds(labels: Labels, n_folds: int, seed: int = 0) -> NDArray[np.int64]:
    """(S,) fold of every shape, shapes of a class dealt out evenly; of all sizes of classes."""
    order = np.random.default_rng(seed).permutation(len(labels))
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order[np.argsort(labels[order], kind="stable")]] = np.arange(len(labels)) % n_folds
    return fold


def _directions(vectors: Features) -> Features:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions: Features = vectors / np.maximum(lengths, 1e-12)
    return directions
