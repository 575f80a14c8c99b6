"""The whole chain on shapes made on the spot, small enough for a laptop."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch

from i2pmae.checkpoints.names import shipped
from i2pmae.checkpoints.networks import load_encoder, random_encoder
from i2pmae.config import (
    SHIPPED_DEFAULT,
    AugmentConfig,
    Device,
    EmbedConfig,
    EncoderConfig,
    ExtractConfig,
    ImageModelConfig,
    MaskingConfig,
    OptimConfig,
    PretrainConfig,
    ShowConfig,
    SimilarConfig,
    TargetConfig,
)
from i2pmae.datasets import open_source
from i2pmae.device import pick_device
from i2pmae.evaluation.clouds import read_points
from i2pmae.evaluation.comparison import (
    MAP,
    PRETRAINED,
    SVM,
    UNTRAINED,
    Comparison,
    compare,
    measure_by_class,
)
from i2pmae.evaluation.features import extract_features
from i2pmae.progress import note, print_table
from i2pmae.stages import embed, extract_2d, pretrain, show, similar
from i2pmae.training.run_folder import RunFolder

PROCEDURAL = Path("procedural")
POINTS = 1024
SMALL = EncoderConfig(
    n_centers=(128, 64, 32),
    group_sizes=(16, 8, 8),
    widths=(48, 96, 192),
    depths=(2, 2, 2),
    embedding_width=64,
    init="torch",
)
EPOCHS = 20
SHOWN = {"labels_5": "5 labels per class", MAP: "retrieval, mAP", SVM: "linear SVM, all labels"}
WHAT = {  # pre-trained how
    SHIPPED_DEFAULT: f"{SHIPPED_DEFAULT}, pre-trained on 30,000 random shapes,",
    PRETRAINED: f"pre-trained here, for {EPOCHS} epochs on 360 shapes,",
}


class Result(TypedDict):
    """What the demo made."""

    scores: dict[str, dict[str, float]]  # kind of encoder -> measure -> percent
    store: str
    checkpoint: str
    pictures: list[str]
    seconds: float


def run(out: Path, *, seed: int = 0, device: Device = "auto") -> Result:
    """A look at what an encoder sees, then the whole chain: extract, pre-train, compare, draw.

    The first look takes an encoder that ships, if one does. Rerun it to resume.

    Args:
        out: folder for the store, the run and the pictures.
        seed: of everything random.
        device: where to compute.

    Returns:
        See `Result`.

    Raises:
        WeightsError: if the packaged weights are not installed.
    """
    started = time.monotonic()
    store = out / "cache" / "procedural.zarr"
    run_folder = out / "run"
    pictures = []
    if SHIPPED_DEFAULT in shipped():
        pictures = _first_look(out, seed, device)
        seconds = time.monotonic() - started
        note(f"{', '.join(pictures)}: after {seconds:.0f} s; next, the whole pipeline, small")
    note("1/4 extract-2d: depth maps through EfficientNet-Lite0, once per shape")
    extract_2d.run(
        ExtractConfig(
            data=PROCEDURAL,
            cache=store,
            points=2 * POINTS,
            seed=seed,
            device=device,
            image_model=ImageModelConfig(name="efficientnet-lite0-packaged"),
        )
    )
    note("2/4 pretrain: 3D masked autoencoder from the store")
    config = PretrainConfig(
        cache=store,
        out=run_folder,
        epochs=EPOCHS,
        batch_size=16,
        points=POINTS,
        seed=seed,
        device=device,
        encoder=SMALL,
        masking=MaskingConfig(standardize=True),
        targets=TargetConfig(standardize=True),
        augment=AugmentConfig(),
        optim=OptimConfig(lr=2e-3, schedule="step", warmup_epochs=2, cosine_epochs=EPOCHS),
    )
    trained = pretrain.run(config, resume=RunFolder(run_folder).holds_run)
    note("3/4 evaluate: frozen features of shapes that no encoder has seen")
    checkpoint = Path(trained["checkpoint"])
    compared = _compare(checkpoint, seed, device)
    note("4/4 pictures")
    drawn = show.run(
        ShowConfig(cache=store, checkpoint=checkpoint, points=POINTS, out=out, seed=seed),
        table=False,
    )
    pictures += drawn["pictures"].values()
    print_table(
        "Percent on shapes that no encoder has seen, with 95% intervals",
        ["encoder", *SHOWN.values()],
        [
            [kind, *(str(scores[measure]) for measure in SHOWN)]
            for kind, scores in compared.scores.items()
        ],
    )
    for kind, what in WHAT.items():
        gains = compared.differences.get(f"{kind}_minus_{UNTRAINED}")
        if gains is not None:
            told = ", ".join(f"{name} {gains[measure].signed}" for measure, name in SHOWN.items())
            note(f"{what} minus untrained, in points: {told}")
    result: Result = {
        "scores": {
            kind: {measure: scores[measure].value for measure in SHOWN}
            for kind, scores in compared.scores.items()
        },
        "store": str(store),
        "checkpoint": str(checkpoint),
        "pictures": pictures,
        "seconds": round(time.monotonic() - started, 1),
    }
    print_table(
        "",
        ["what", "where"],
        [
            ["store", str(store)],
            ["checkpoint", str(checkpoint)],
            *[["picture", path] for path in pictures],
        ],
    )
    report = shlex.join(["i2pmae", "report", str(run_folder), "--out", str(out / "report.html")])
    note(
        f"next: {report} to look closer, or your own shapes: "
        "i2pmae extract-2d shapes/ --cache cache/shapes.zarr"
    )
    return result


def _first_look(out: Path, seed: int, device: Device) -> list[str]:
    """Neighbors of a shape, and features as colors, by the encoder that ships."""
    from i2pmae.pictures.shapes import draw_features

    note(f"0/4 embed, similar: {SHIPPED_DEFAULT} on shapes that it was not trained on")
    vectors = out / "vectors.npz"
    embed.run(
        EmbedConfig(
            data=PROCEDURAL, split="test", out=vectors, points=POINTS, seed=seed, device=device
        )
    )
    source = open_source(PROCEDURAL, split="test", points=2 * POINTS, seed=seed)
    chair = next(name for name in source.ids if name.startswith("chair/"))
    picture = out / "neighbors.png"
    similar.run(SimilarConfig(vectors=vectors, query=chair, picture=picture, device=device))
    first = [list(source.labels).index(label) for label in range(len(source.class_names))][::2]
    points = np.stack([source.load(index).points for index in first])
    with torch.inference_mode():
        features = load_encoder(SHIPPED_DEFAULT).point_features(torch.from_numpy(points)).numpy()
    names = [source.class_names[source.labels[index]] for index in first]
    colors = draw_features(out / "encoder-features.png", points, features, names)
    return [str(picture), str(colors)]


def _compare(checkpoint: Path, seed: int, device: Device) -> Comparison:
    """Frozen features of the encoder trained here, the same untrained, and the one that ships."""
    trained = load_encoder(checkpoint)
    encoders = {UNTRAINED: random_encoder(trained.config, seed), PRETRAINED: trained}
    if SHIPPED_DEFAULT in shipped():
        encoders[SHIPPED_DEFAULT] = load_encoder(SHIPPED_DEFAULT)
    place = pick_device(device)
    sources = [
        open_source(PROCEDURAL, split=split, points=2 * POINTS, seed=seed)
        for split in ("train", "test")
    ]
    clouds = [read_points(source, POINTS) for source in sources]
    features = {
        kind: [
            extract_features(encoder.to(place), part, device=place, description=kind)
            for part in clouds
        ]
        for kind, encoder in encoders.items()
    }
    labels = [np.asarray(source.labels, dtype=np.int64) for source in sources]
    measured = measure_by_class(labels, features)
    pairs = [(kind, UNTRAINED) for kind in WHAT]
    return compare(measured.measures, measured.labels, pairs=pairs, draws=300, seed=seed)
