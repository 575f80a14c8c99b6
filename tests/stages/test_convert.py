import numpy as np
import pytest
import torch

import i2pmae
from i2pmae.errors import CheckpointError
from i2pmae.stages import convert


@pytest.mark.parametrize(
    ("name", "n_keys"),
    [
        ("i2p_mae", 295),
        ("i2p_mae_modelnet40", 249),
        ("i2p_mae_scanobjectnn", 249),
        ("point_m2ae_seg", 308),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_official_files_come_back_identical(official_weights, tmp_path, name, n_keys, prefix):
    official = official_weights(name)
    source = tmp_path / "official.pth"
    torch.save({"base_model": {prefix + key: value for key, value in official.items()}}, source)
    there = convert.run(source, tmp_path / "ours.pt")
    back = convert.run(tmp_path / "ours.pt", tmp_path / "back.pth")
    assert (there["tensors"], back["tensors"]) == (n_keys, n_keys)
    home = "model_state_dict" if "seg" in name else "base_model"
    returned = torch.load(tmp_path / "back.pth", weights_only=True)[home]
    assert list(returned) == list(official)
    assert all(torch.equal(returned[key], official[key]) for key in official)


@pytest.mark.slow
def test_converted_networks_equal_the_golden_vectors(parity, official_weights, tmp_path):
    golden = np.load(parity / "encoder.npz")
    points = torch.from_numpy(golden["points"])
    for name, load, key in (
        ("i2p_mae", i2pmae.load_encoder, "pretrain_feat_B"),
        ("i2p_mae_modelnet40", i2pmae.load_classifier, "modelnet40_logits_B"),
        ("i2p_mae_scanobjectnn", i2pmae.load_classifier, "scanobjectnn_logits_B"),
    ):
        source, ours = tmp_path / "official.pth", tmp_path / "ours.pt"
        torch.save({"base_model": official_weights(name)}, source)
        convert.run(source, ours)
        for path in (str(source), ours):
            with torch.inference_mode():
                found = load(path)(points)
            np.testing.assert_allclose(found, golden[key], rtol=1e-4, atol=1e-4)


def test_our_checkpoints_become_official_ones(trained, tmp_path):
    result = convert.run(trained, tmp_path / "official.pth")
    assert result["direction"] == "i2pmae to official"
    assert "base_model" in torch.load(tmp_path / "official.pth", weights_only=True)


def test_a_head_of_features_without_their_shapes_mean_is_told(trained, tmp_path, capsys):
    convert.run(trained, tmp_path / "official.pth")
    assert "mean" not in capsys.readouterr().err
    saved = torch.load(trained, weights_only=True)
    saved["config"]["targets"]["remove_shape_mean"] = True
    torch.save(saved, tmp_path / "relative.pt")
    convert.run(tmp_path / "relative.pt", tmp_path / "official.pth")
    assert "without their shape's mean" in capsys.readouterr().err


def test_foreign_files_are_refused(tmp_path):
    foreign = tmp_path / "foreign.pth"
    torch.save({"weights": torch.zeros(3)}, foreign)
    with pytest.raises(CheckpointError, match=r"foreign\.pth"):
        convert.run(foreign, tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()
