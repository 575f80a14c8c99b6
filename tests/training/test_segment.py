import json
import zlib

import numpy as np
import pytest
import torch

import i2pmae
from i2pmae.config import AugmentConfig, FinetuneConfig, OptimConfig, SegmentHeadConfig
from i2pmae.datasets import open_source
from i2pmae.errors import CheckpointError, DataError
from i2pmae.evaluation.metrics import part_iou, restrict_to_category
from i2pmae.stages import finetune
from i2pmae.training import loop
from i2pmae.training.run_folder import RunFolder

from ..conftest import TINY_ENCODER
from ..stages.test_pretrain import metrics

FIGURES = ("instance_miou", "category_miou")


def config(out, **changes) -> FinetuneConfig:
    values = {
        "task": "segmentation",
        "out": out,
        "epochs": 3,
        "batch_size": 4,
        "points": 96,
        "sampling": "random",
        "validation": 0.25,
        "precision": "fp32",
        "encoder": TINY_ENCODER,
        "segment_head": SegmentHeadConfig(level_widths=(16, 16), widths=(32, 16, 16)),
        "augment": AugmentConfig(scale=(0.8, 1.25), scale_per_axis=False, shift=0.1),
        "optim": OptimConfig(lr=5e-3, warmup_epochs=0, cosine_epochs=3),
    }
    return FinetuneConfig(**(values | changes))


@pytest.fixture(scope="module")
def segmented(parts_folder, trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "segment"
    return out, finetune.run(config(out, data=parts_folder, checkpoint=trained))


def test_the_result_has_both_means_and_every_category(segmented):
    out, result = segmented
    assert (result["n_train"], result["n_validation"], result["n_test"]) == (12, 4, 6)
    assert set(result["per_category"]) == {"Knife", "Mug"}
    assert result["category_miou"] == pytest.approx(np.mean(list(result["per_category"].values())))
    rows = RunFolder(out).rows()
    assert result["validation_instance_miou"] == max(r["validation_instance_miou"] for r in rows)
    text = (out / "results.md").read_text()
    assert text.startswith("# Part segmentation\n")
    assert f"| Mug | {result['per_category']['Mug']:.2f} |" in text
    assert (out / "parts.png").stat().st_size > 10_000


def test_the_figures_are_those_of_the_loaded_network(segmented, parts_folder):
    _, result = segmented
    model = i2pmae.load_segmenter(result["checkpoint"])
    source = open_source(parts_folder, split="test")
    shapes = [source.load(index) for index in range(len(source))]
    points = torch.from_numpy(np.stack([shape.points[:96] for shape in shapes]))
    truth = np.stack([shape.parts[:96] for shape in shapes])
    labels = np.array(source.labels)
    with torch.inference_mode():
        scores = model(points, torch.from_numpy(labels))
    assert scores.shape == (6, 96, 50)
    assert torch.allclose(scores.exp().sum(dim=2), torch.ones(6, 96), atol=1e-5)
    predicted = restrict_to_category(scores.numpy(), labels, source.class_parts)
    found = part_iou(predicted, truth, labels, source.class_parts)
    assert found.instance == pytest.approx(result["instance_miou"])
    assert found.category == pytest.approx(result["category_miou"])


def test_the_encoder_of_a_segmenter_can_be_used_again(segmented):
    out, _ = segmented
    assert i2pmae.load_encoder(out / "last.pt")(torch.rand(2, 96, 3)).shape == (2, 48)


def test_an_interrupted_run_resumes_to_the_same_numbers(
    segmented, parts_folder, trained, tmp_path, monkeypatch
):
    reference, expected = segmented
    settings = config(tmp_path / "cut", data=parts_folder, checkpoint=trained)
    with monkeypatch.context() as patch:
        train_epoch = loop.train_epoch

        def stopping(training, *arguments):
            if training.epoch == 1:
                raise KeyboardInterrupt
            return train_epoch(training, *arguments)

        patch.setattr(loop, "train_epoch", stopping)
        with pytest.raises(KeyboardInterrupt):
            finetune.run(settings)
    result = finetune.run(settings, resume=True)
    assert metrics(settings.out) == metrics(reference)
    assert [result[name] for name in FIGURES] == [expected[name] for name in FIGURES]


def test_a_store_trains_to_the_figures_of_its_source(segmented, parts_store, trained, tmp_path):
    reference, _ = segmented
    out = tmp_path / "run"
    finetune.run(config(out, cache=parts_store, checkpoint=trained, epochs=1))
    assert RunFolder(out).rows()[0]["loss"] == pytest.approx(
        RunFolder(reference).rows()[0]["loss"],
        rel=1e-2,  # a store rounds coordinates
    )


def test_clouds_smaller_than_asked_are_filled_up(parts_folder, tmp_path):
    result = finetune.run(config(tmp_path / "run", data=parts_folder, epochs=1, points=200))
    assert result["from_scratch"]
    assert 0 <= result["instance_miou"] <= 100


def test_shapes_without_parts_are_refused(shapes_hdf5, tmp_path):
    with pytest.raises(DataError, match="no part labels"):
        finetune.run(config(tmp_path / "run", data=shapes_hdf5))
    assert not (tmp_path / "run").exists()


def test_other_networks_are_no_segmenters(trained):
    with pytest.raises(CheckpointError, match="pretraining network, not a segmenter"):
        i2pmae.load_segmenter(trained)


@pytest.fixture(scope="module")
def official(parity):
    """State dict of the released network by the golden vectors' rule."""
    entries = json.loads((parity / "point_m2ae_seg_state_dict.json").read_text())["entries"]
    return {entry["key"]: torch.from_numpy(filled(**entry)) for entry in entries}


def test_official_files_give_the_golden_log_probabilities(official, parity, tmp_path):
    assert len(official) == 308
    path = tmp_path / "official.pth"
    torch.save({"model_state_dict": official, "epoch": 3, "iou": np.float64(0.86)}, path)
    golden = np.load(parity / "segmentation.npz")
    model = i2pmae.load_segmenter(path)
    assert sum(p.numel() for p in model.parameters()) == 25_474_354
    assert (model.class_names[0], model.part_names[-1]) == ("Airplane", "Table 2")
    assert model.class_parts[-1] == (47, 48, 49)
    with torch.inference_mode():
        found = model(torch.from_numpy(golden["points"]), torch.from_numpy(golden["category"]))
    np.testing.assert_allclose(found.numpy(), golden["log_softmax_B"], rtol=2e-5, atol=2e-4)


def test_both_homes_of_official_weights_are_known(official, tmp_path):
    loaded = []
    for home, prefix in (("base_model", "module."), ("model_state_dict", "")):
        path = tmp_path / f"{home}.pth"
        torch.save({home: {prefix + name: w for name, w in official.items()}}, path)
        loaded.append(i2pmae.load_segmenter(path).state_dict())
    assert all(torch.equal(loaded[0][name], loaded[1][name]) for name in loaded[0])


def filled(key: str, shape: list[int], kind: str, **_) -> np.ndarray:
    """One tensor by the golden vectors' filling rule B."""
    noise = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    matrix = len(shape) >= 2 and shape[0] != 1
    value = {
        "normal": (np.sqrt(2 / np.prod(shape[1:])) if matrix else 0.1) * noise,
        "norm_weight": 1 + 0.1 * noise,
        "running_mean": 0.1 * noise,
        "running_var": 0.25 + abs(0.1 * noise),
        "counter": np.zeros(shape),
    }[kind]
    return np.asarray(value, dtype=np.int64 if kind == "counter" else np.float32)
