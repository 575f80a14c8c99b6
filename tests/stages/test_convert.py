import json
import zlib

import numpy as np
import pytest
import torch

import i2pmae
from i2pmae.errors import CheckpointError
from i2pmae.stages import convert


def filled(parity, name: str) -> dict[str, torch.Tensor]:
    """Filling rule B of the golden vectors."""
    weights = {}
    for entry in json.loads((parity / name).read_text())["entries"]:
        shape, kind = entry["shape"], entry["kind"]
        noise = np.random.default_rng(zlib.crc32(entry["key"].encode())).standard_normal(shape)
        values = {
            "normal": lambda: (
                noise
                * (  # noqa: B023 - called at once
                    np.sqrt(2 / np.prod(shape[1:])) if len(shape) >= 2 and shape[0] != 1 else 0.1  # noqa: B023
                )
            ),
            "norm_weight": lambda: 1 + 0.1 * noise,  # noqa: B023
            "running_mean": lambda: 0.1 * noise,  # noqa: B023
            "running_var": lambda: 0.25 + abs(0.1 * noise),  # noqa: B023
            "counter": lambda: np.zeros(shape),  # noqa: B023
        }[kind]()
        weights[entry["key"]] = torch.from_numpy(
            np.asarray(values, dtype=np.int64 if kind == "counter" else np.float32)
        )
    return weights


@pytest.mark.parametrize(
    ("name", "n_keys"),
    [
        ("i2p_mae_state_dict.json", 295),
        ("i2p_mae_modelnet40_state_dict.json", 249),
        ("i2p_mae_scanobjectnn_state_dict.json", 249),
        ("point_m2ae_seg_state_dict.json", 308),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_official_files_come_back_identical(parity, tmp_path, name, n_keys, prefix):
    official = filled(parity, name)
    source = tmp_path / "official.pth"
    torch.save({"base_model": {prefix + key: value for key, value in official.items()}}, source)
    there = convert.run(source, tmp_path / "ours.pt")
    back = convert.run(tmp_path / "ours.pt", tmp_path / "back.pth")
    assert (there["tensors"], back["tensors"]) == (n_keys, n_keys)
    home = "model_state_dict" if "seg" in name else "base_model"
    returned = torch.load(tmp_path / "back.pth", weights_only=True)[home]
    assert list(returned) == list(official)
    assert all(torch.equal(returned[key], official[key]) for key in official)


def test_converted_networks_equal_the_golden_vectors(parity, tmp_path):
    golden = np.load(parity / "encoder.npz")
    points = torch.from_numpy(golden["points"])
    for name, load, key in (
        ("i2p_mae_state_dict.json", i2pmae.load_encoder, "pretrain_feat_B"),
        ("i2p_mae_modelnet40_state_dict.json", i2pmae.load_classifier, "modelnet40_logits_B"),
        ("i2p_mae_scanobjectnn_state_dict.json", i2pmae.load_classifier, "scanobjectnn_logits_B"),
    ):
        source, ours = tmp_path / "official.pth", tmp_path / "ours.pt"
        torch.save({"base_model": filled(parity, name)}, source)
        convert.run(source, ours)
        for path in (str(source), ours):
            with torch.inference_mode():
                found = load(path)(points)
            np.testing.assert_allclose(found, golden[key], rtol=1e-4, atol=1e-4)


def test_our_checkpoints_become_official_ones(trained, tmp_path):
    result = convert.run(trained, tmp_path / "official.pth")
    assert result["direction"] == "i2pmae to official"
    assert "base_model" in torch.load(tmp_path / "official.pth", weights_only=True)


def test_foreign_files_are_refused(tmp_path):
    foreign = tmp_path / "foreign.pth"
    torch.save({"weights": torch.zeros(3)}, foreign)
    with pytest.raises(CheckpointError, match=r"foreign\.pth"):
        convert.run(foreign, tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()
