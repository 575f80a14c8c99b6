"""What `guidance.py` compares: data sets, stores, and arms with their settings and seeds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Arm:
    """One way to pre-train.

    Attributes:
        what: for the tables.
        settings: what it changes in the recipe, as `--set` takes it.
        seeds: how many.
        store: a key of `STORES`.
        features: of a trained network, of one with random weights, or the pooled 2D features
            themselves.
        start: another arm, whose networks are fine-tuned.
        against: arms that the tables compare it with, seed by seed.
    """

    what: str
    settings: tuple[str, ...] = ()
    seeds: int = 3
    store: str = "vit"
    features: Literal["trained", "random", "2d"] = "trained"
    start: str | None = None
    against: tuple[str, ...] = ("i2p-mae",)


@dataclass(frozen=True)
class DataSet:
    """Shapes that arms are trained and scored on.

    Attributes:
        up: the axis of the files that points up.
        pooled: keys of `STORES`, whose pooled features stand for the 2D network: of the training
            shapes, of the test shapes.
        finetunings: settings with all labels, and with a tenth of them for half as many steps.
    """

    up: Literal["x", "y", "z"]
    pooled: tuple[str, str]
    finetunings: dict[str, tuple[str, ...]]


def finetunings(epochs: int) -> dict[str, tuple[str, ...]]:
    """Fine-tunings of so many epochs with all labels, five times as many with a tenth of them."""
    return {
        "finetuned": (f"epochs={epochs}", f"optim.cosine_epochs={epochs}"),
        "finetuned_tenth": (
            "labels=0.1",
            f"epochs={5 * epochs}",
            f"optim.cosine_epochs={5 * epochs}",
        ),
    }


SETS = {
    # ModelNet10 (24^3 voxels), whose images are drawn as its files lie.
    "modelnet10": DataSet("y", ("vit", "vit-test"), finetunings(4)),
    # Electronics parts: half as many shapes, so twice the epochs.
    "kicad": DataSet("z", ("kicad/vit-block-6", "kicad/vit-block-6-test"), finetunings(8)),
}


def set_of(arm: str) -> DataSet:
    """The data set of an arm, told from its name."""
    return SETS[arm.split("/")[0] if "/" in arm else "modelnet10"]


VIT = ("--image-model", "timm:vit_small_patch14_dinov2", "--image-size", "224")
BLOCK_6 = ("--set", "image_model.block=6")
KICAD = (*VIT, *BLOCK_6, "--up", "z")
LITE0 = ("--image-model", "efficientnet-lite0-packaged")
STORES: dict[str, tuple[str, ...]] = {
    "vit": VIT,
    "vit-test": (*VIT, "--split", "test"),  # for the features themselves
    "vit-random": (*VIT, "--pretrained", "random"),
    "vit-block-6": (*VIT, *BLOCK_6),
    "vit-random-block-6": (*VIT, *BLOCK_6, "--pretrained", "random"),
    "lite0": LITE0,
    "lite0-random": (*LITE0, "--pretrained", "random"),
    "lite0-copies": LITE0,
    "vit-nearest": (*VIT, "--set", "views.draw=nearest"),
    "vit-sparse": (*VIT, "--set", "views.sum_points=512"),
    "vit-1-view": (*VIT, "--set", "views.n_views=1"),
    "vit-6-views": (*VIT, "--set", "views.n_views=6"),
    "vit-float16": (*VIT, "--set", "store.dtype=float16"),
    "vit-coarse": (*VIT, "--set", "store.int8_step=0.3"),
    "vit-half": VIT,
    "vit-quarter": VIT,
    "kicad/vit-block-6": KICAD,
    "kicad/vit-block-6-test": (*KICAD, "--split", "test"),
    "kicad/vit-random-block-6": (*KICAD, "--pretrained", "random"),
    "kicad/vit-block-6-oblique": (*KICAD, "--set", "views.pose=oblique"),
    "kicad/vit-block-6-upright": (*KICAD, "--set", "views.pose=upright"),
    "kicad/vit": (*VIT, "--up", "z"),
    "kicad/vit-random": (*VIT, "--up", "z", "--pretrained", "random"),
}


@dataclass(frozen=True)
class Chosen:
    """Training shapes that a store is made of.

    Attributes:
        every: second, fourth or so-manyth shape.
        copies: of each, stretched along the axes as augmentation does, the same for all seeds; 0:
            the shape as it is.
    """

    every: int = 1
    copies: int = 0


# One pass over four copies stands in for rendering clouds anew in each epoch. What it leaves out:
# shift and size, which change the values of a `sum` depth map a little.
CHOSEN = {
    "lite0-copies": Chosen(copies=4),
    "vit-half": Chosen(every=2),
    "vit-quarter": Chosen(every=4),
}


def as_many_steps(epochs: int) -> tuple[str, ...]:
    """Settings for the steps of the recipe's four epochs in another number of epochs."""
    return (
        f"epochs={epochs}",
        f"optim.cosine_epochs={epochs}",
        f"optim.warmup_epochs={epochs / 4}",
    )


RANDOM_MASKS = "masking.strategy=random"
ONLY_3D = ("targets.kind=3d", RANDOM_MASKS)
LONG = ("epochs=16", "optim.cosine_epochs=16")
# Over four copies, which the network still sees in other sizes and places.
ONE_PASS = (*as_many_steps(1), "augment.scale_per_axis=false")
NO_AUGMENTATION = ("augment.scale=[1.0,1.0]", "augment.shift=0")
LONG_WITHOUT_AUGMENTATION = (*LONG, *NO_AUGMENTATION)
LONGEST = ("epochs=64", "optim.cosine_epochs=64", *NO_AUGMENTATION)
GENTLE = (*NO_AUGMENTATION, "optim.lr=1e-3")  # fine-tuning
MAIN = (
    *("i2p-mae", "3d-only", "targets-only", "masking-only", "random"),
    *(
        f"kicad/{arm}"
        for arm in ("i2p-mae", "random-vit", "3d-only", "paper", "random", "2d-features")
    ),
)
PRETRAINED_LONG, BLOCK_6_LONG = "16-epochs-no-augmentation", "block-6-16-epochs-no-augmentation"
ONLY_3D_LONG, SCRATCH = "3d-only-equal-time", "finetune-scratch"
ARMS: dict[str, Arm] = {
    "2d-features": Arm(
        "2D features, mean over patches, no 3D network", seeds=1, features="2d", against=()
    ),
    "i2p-mae": Arm(
        "2D-guided masking and 2D targets",
        seeds=5,
        against=("3d-only", "targets-only", "masking-only", "random", "random-vit"),
    ),
    "3d-only": Arm("random masking, 3D target only (Point-M2AE)", ONLY_3D, 5, against=("random",)),
    "targets-only": Arm(
        "random masking, 2D targets", (RANDOM_MASKS,), 5, against=("3d-only", "random")
    ),
    "masking-only": Arm(
        "2D-guided masking, 3D target only", ("targets.kind=3d",), 5, against=("3d-only",)
    ),
    "random": Arm("random weights, not trained", (), 5, features="random", against=()),
    "random-vit": Arm(
        "2D network with random weights", (), 5, "vit-random", against=("3d-only", "random")
    ),
    PRETRAINED_LONG: Arm(
        "16 epochs, no augmentation",
        LONG_WITHOUT_AUGMENTATION,
        5,
        against=(
            "i2p-mae",
            "random",
            "16-epochs",
            "3d-only-16-epochs-no-augmentation",
            ONLY_3D_LONG,
            "random-vit-16-epochs-no-augmentation",
        ),
    ),
    "block-6": Arm(
        "features of the ViT's sixth block of twelve",
        (),
        5,
        "vit-block-6",
        against=("i2p-mae", "3d-only", "random", "random-vit-block-6", "random-vit"),
    ),
    "random-vit-block-6": Arm(
        "sixth block of the 2D network with random weights",
        (),
        5,
        "vit-random-block-6",
        against=("random-vit",),
    ),
    BLOCK_6_LONG: Arm(
        "features of the sixth block, 16 epochs, no augmentation",
        LONG_WITHOUT_AUGMENTATION,
        5,
        "vit-block-6",
        against=(
            PRETRAINED_LONG,
            "random",
            f"targets-only-{BLOCK_6_LONG}",
            "3d-only-16-epochs-no-augmentation",
            ONLY_3D_LONG,
            "random-vit-16-epochs-no-augmentation",
        ),
    ),
    f"targets-only-{BLOCK_6_LONG}": Arm(
        "random masking, features of the sixth block, 16 epochs, no augmentation",
        (RANDOM_MASKS, *LONG_WITHOUT_AUGMENTATION),
        5,
        "vit-block-6",
        against=("random",),
    ),
    "3d-only-16-epochs-no-augmentation": Arm(
        "3D only, 16 epochs, no augmentation",
        (*ONLY_3D, *LONG_WITHOUT_AUGMENTATION),
        against=("3d-only",),
    ),
    "random-vit-16-epochs-no-augmentation": Arm(
        "2D network with random weights, 16 epochs, no augmentation",
        LONG_WITHOUT_AUGMENTATION,
        5,
        "vit-random",
        against=("random-vit", "random", "3d-only-16-epochs-no-augmentation", ONLY_3D_LONG),
    ),
    ONLY_3D_LONG: Arm(  # more epochs than fit into the time of 16 and of the features
        f"3D only, as long as `{PRETRAINED_LONG}` with its features",
        (*ONLY_3D, *NO_AUGMENTATION, "epochs=30", "optim.cosine_epochs=30"),
        5,
        against=("3d-only", "random"),
    ),
    "lite0": Arm(
        "EfficientNet-Lite0 instead of the ViT",
        store="lite0",
        against=("i2p-mae", "3d-only", "random-lite0"),
    ),
    "random-lite0": Arm("Lite0 with random weights", store="lite0-random", against=("3d-only",)),
    "lite0-copies": Arm(
        "Lite0, one pass over four stretched copies",
        ONE_PASS,
        store="lite0-copies",
        against=("lite0",),
    ),
    "16-epochs": Arm("2D-guided masking and 2D targets, 16 epochs", LONG),
    "paper-init": Arm("initial weights as in the paper", ("encoder.init=paper",)),
    "epoch-schedule": Arm("learning rate set once an epoch", ("optim.schedule=epoch",)),
    "raw-targets": Arm("2D targets not standardized", ("targets.standardize=false",)),
    "shape-mean-removed": Arm(
        "2D targets less each shape's mean", ("targets.remove_shape_mean=true",)
    ),
    "flat-softmax": Arm(
        "saliency not standardized, as released",
        ("masking.standardize=false",),
        against=("i2p-mae", "targets-only"),
    ),
    "embed-all": Arm("all groups embedded", ("embed=all",)),
    "targets-on-all": Arm("2D targets on all tokens", ("targets.tokens_2d=all",)),
    "targets-on-masked": Arm("2D targets on masked tokens", ("targets.tokens_2d=masked",)),
    **{
        f"temperature-{temperature}": Arm(
            f"saliency of temperature {temperature}",
            (f"masking.temperature={temperature}",),
            against=("i2p-mae", "targets-only"),
        )
        for temperature in (0.25, 0.5, 2)
    },
    "nearest": Arm("depth of the nearest point", store="vit-nearest"),
    "sparse": Arm("depth maps of 512 points", store="vit-sparse"),
    "1-view": Arm("one view", store="vit-1-view"),
    "6-views": Arm("six views", store="vit-6-views"),
    "float16": Arm("float16 store", store="vit-float16"),
    "coarse": Arm("int8 store, steps three times as large", store="vit-coarse"),
    "half": Arm("half of the shapes, as many steps", as_many_steps(8), store="vit-half"),
    "quarter": Arm(
        "a quarter of the shapes, as many steps", as_many_steps(16), store="vit-quarter"
    ),
    "finetune-i2p-mae": Arm("fine-tuned from I2P-MAE", start="i2p-mae", against=(SCRATCH,)),
    SCRATCH: Arm(
        "fine-tuned from random weights", ("from_scratch=true",), start="i2p-mae", against=()
    ),
    **{
        f"finetune-{start}": Arm(
            f"fine-tuned from `{start}`, no augmentation, half the rate",
            GENTLE,
            4,
            start=start,
            against=(
                f"{SCRATCH}-no-augmentation",
                *((f"finetune-{ONLY_3D_LONG}",) if start != ONLY_3D_LONG else ()),
            ),
        )
        for start in (PRETRAINED_LONG, ONLY_3D_LONG, BLOCK_6_LONG)
    },
    f"{SCRATCH}-no-augmentation": Arm(
        "fine-tuned from random weights, no augmentation, half the rate",
        (*GENTLE, "from_scratch=true"),
        4,
        start=PRETRAINED_LONG,
        against=(),
    ),
}
PAPER = (
    "embed=all",
    "encoder.init=paper",
    "masking.standardize=false",
    "optim.schedule=epoch",
    "targets.standardize=false",
)
KICAD_ARMS = {
    "i2p-mae": Arm(
        "2D-guided masking, targets of the pre-trained network",
        LONG_WITHOUT_AUGMENTATION,
        5,
        "vit-block-6",
        against=(
            *("random-vit", "3d-only", ONLY_3D_LONG, "paper", "random", "2d-features"),
            "targets-only",
        ),
    ),
    "random-vit": Arm(
        "2D-guided masking, targets of the 2D network with random weights",
        LONG_WITHOUT_AUGMENTATION,
        5,
        "vit-random-block-6",
        against=("3d-only", "random"),
    ),
    "3d-only": Arm(
        "random masking, 3D target only (Point-M2AE)",
        (*ONLY_3D, *LONG_WITHOUT_AUGMENTATION),
        5,
        "vit-block-6",
        against=("random",),
    ),
    "paper": Arm(
        "the paper's settings: last block, raw targets, its initial weights, saliency and schedule",
        (*PAPER, *LONG_WITHOUT_AUGMENTATION),
        5,
        "vit",
        against=("3d-only", "random"),
    ),
    "random": Arm(
        "random weights, not trained", (), 5, "vit-block-6", features="random", against=()
    ),
    "2d-features": Arm(
        "2D features, mean over patches, no 3D network",
        (),
        1,
        "vit-block-6",
        features="2d",
        against=(),
    ),
    "targets-only": Arm(
        "random masking, targets of the pre-trained network",
        (RANDOM_MASKS, *LONG_WITHOUT_AUGMENTATION),
        5,
        "vit-block-6",
        against=("3d-only", "random"),
    ),
    **{
        pose: Arm(
            f"as `kicad/i2p-mae`, {pose} views",
            LONG_WITHOUT_AUGMENTATION,
            3,
            f"vit-block-6-{pose}",
            against=("i2p-mae", "paper"),
        )
        for pose in ("oblique", "upright")
    },
    ONLY_3D_LONG: Arm(
        "3D only, as long as 16 epochs with features and their extraction",
        (*ONLY_3D, *NO_AUGMENTATION, "epochs=30", "optim.cosine_epochs=30"),
        5,
        "vit-block-6",
        against=("random",),
    ),
    "last-block": Arm(
        "as `kicad/i2p-mae`, features of the last block",
        LONG_WITHOUT_AUGMENTATION,
        3,
        "vit",
        against=("i2p-mae", "random-vit-last-block"),
    ),
    "random-vit-last-block": Arm(
        "as `kicad/random-vit`, features of the last block",
        LONG_WITHOUT_AUGMENTATION,
        3,
        "vit-random",
        against=("random-vit",),
    ),
    "64-epochs": Arm(
        "as `kicad/i2p-mae`, 64 epochs",
        LONGEST,
        5,
        "vit-block-6",
        against=("random-vit-64-epochs", "i2p-mae", "2d-features"),
    ),
    "random-vit-64-epochs": Arm(
        "as `kicad/random-vit`, 64 epochs",
        LONGEST,
        5,
        "vit-random-block-6",
        against=("random-vit",),
    ),
    **{
        f"finetune-{start}": Arm(
            f"fine-tuned from `kicad/{start}`",
            GENTLE,
            5,
            start=start,
            store="vit-block-6",
            against=(SCRATCH,) if start == "3d-only" else (SCRATCH, "finetune-3d-only"),
        )
        for start in ("i2p-mae", "random-vit", "3d-only")
    },
    SCRATCH: Arm(
        "fine-tuned from random weights",
        (*GENTLE, "from_scratch=true"),
        5,
        "vit-block-6",
        start="i2p-mae",
        against=(),
    ),
}
ARMS |= {
    f"kicad/{name}": replace(
        arm,
        store=f"kicad/{arm.store}",
        start=arm.start and f"kicad/{arm.start}",
        against=tuple(f"kicad/{other}" for other in arm.against),
    )
    for name, arm in KICAD_ARMS.items()
}
