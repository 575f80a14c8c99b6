"""The whole chain on shapes made on the spot, small enough for a laptop."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from i2pmae.config import (
    AugmentConfig,
    Device,
    EncoderConfig,
    ExtractConfig,
    ImageModelConfig,
    MaskingConfig,
    OptimConfig,
    PretrainConfig,
    ShowConfig,
    SvmConfig,
    TargetConfig,
)
from i2pmae.progress import note, print_table
from i2pmae.stages import extract_2d, pretrain, show, svm
from i2pmae.stages.run_folder import RunFolder

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


def run(out: Path, *, seed: int = 0, device: Device = "auto") -> dict[str, Any]:
    """Extract, pre-train, compare with a random encoder, draw pictures.

    Running it again takes what is there and goes on.

    Args:
        out: folder for the store, the run and the pictures.
        seed: of everything random.
        device: where to compute.

    Returns:
        `accuracy_random`, `accuracy_pretrained` (percent), `store`, `checkpoint`, `pictures`,
        `seconds`.

    Raises:
        WeightsError: if the packaged weights are not installed.
    """
    started = time.monotonic()
    store = out / "cache" / "procedural.zarr"
    run_folder = out / "run"
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
        epochs=20,
        batch_size=16,
        points=POINTS,
        seed=seed,
        device=device,
        encoder=SMALL,
        masking=MaskingConfig(standardize=True),
        targets=TargetConfig(standardize=True),
        augment=AugmentConfig(),
        optim=OptimConfig(lr=2e-3, schedule="step", warmup_epochs=2, cosine_epochs=20),
    )
    trained = pretrain.run(config, resume=RunFolder(run_folder).holds_run)
    note("3/4 svm: a linear classifier on frozen features, random against pre-trained encoder")
    checkpoint = Path(trained["checkpoint"])
    accuracies = [
        svm.run(
            SvmConfig(
                checkpoint=checkpoint,
                random_weights=random_weights,
                data=PROCEDURAL,
                points=POINTS,
                seed=seed,
                device=device,
            ),
            table=False,
        )["accuracy"]
        for random_weights in (True, False)
    ]
    note("4/4 pictures")
    drawn = show.run(
        ShowConfig(cache=store, checkpoint=checkpoint, points=POINTS, out=out, seed=seed),
        table=False,
    )
    pictures = list(drawn["pictures"].values())
    print_table(
        "Linear SVM on shapes the encoder has not seen",
        ["encoder", "accuracy %"],
        [["random", f"{accuracies[0]:.1f}"], ["pre-trained", f"{accuracies[1]:.1f}"]],
    )
    result = {
        "accuracy_random": accuracies[0],
        "accuracy_pretrained": accuracies[1],
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
    note(
        f"next: i2pmae report {run_folder} --out {out / 'report.html'} to look closer, or your own "
        "shapes: i2pmae extract-2d shapes/ --cache cache/shapes.zarr"
    )
    return result
