import numpy as np
import pytest

from i2pmae.config import SvmConfig
from i2pmae.errors import ConfigError, DataError
from i2pmae.evaluation.svm import linear_svm
from i2pmae.stages import svm

from ..conftest import TINY_ENCODER


def test_random_and_trained_encoders_are_scored_alike(trained):
    config = SvmConfig(checkpoint=trained, data="procedural", points=128, limit=60)
    found = svm.run(config)
    random = svm.run(config.model_copy(update={"random_weights": True}))
    assert found["n_train"] == random["n_train"] == 60
    assert found["accuracy"] != random["accuracy"]
    assert random["random_weights"]
    assert not found["random_weights"]


def test_pooling_is_a_choice(trained):
    config = SvmConfig(checkpoint=trained, data="procedural", points=128, limit=60)
    found = [svm.run(config.model_copy(update={"pooling": name})) for name in ("max", "max-mean")]
    assert [result["pooling"] for result in found] == ["max", "max-mean"]
    assert found[0]["accuracy"] != found[1]["accuracy"]


def test_features_of_several_parts_are_averaged(trained, monkeypatch):
    seen = []

    def features(_encode, clouds, **_options):
        seen.append(clouds)
        return clouds[:, 0]  # the part's first point stands for its feature

    fitted = []
    monkeypatch.setattr(svm, "extract_features", features)
    monkeypatch.setattr(svm, "linear_svm", lambda *x, **_: fitted.append(x) or linear_svm(*x, C=1))
    config = SvmConfig(checkpoint=trained, data="procedural", points=128, limit=60, C=1, draws=3)
    assert svm.run(config)["config"]["draws"] == 3
    parts = np.stack(seen[:3])
    np.testing.assert_allclose(fitted[0][0], parts[:, :, 0].mean(axis=0), rtol=1e-6)
    assert parts.shape[1:] == (60, 128, 3)
    assert len({part.tobytes() for part in parts}) == 3


def test_the_accuracy_is_the_mean_over_test_shapes(trained):
    found = svm.run(SvmConfig(checkpoint=trained, data="procedural", points=128, limit=120))
    # The procedural classes are balanced, so the mean over classes is the same.
    per_class = list(found["per_class"].values())
    assert found["accuracy"] == pytest.approx(sum(per_class) / len(per_class))
    assert found["accuracy"] > 100 / len(per_class)


def test_no_checkpoint_means_random_weights():
    config = SvmConfig(data="procedural", points=128, limit=60, encoder=TINY_ENCODER)
    assert svm.run(config) == svm.run(config)


def test_more_points_than_are_read_by_default():
    config = SvmConfig(data="procedural", points=9000, limit=4, C=1, encoder=TINY_ENCODER)
    assert svm.run(config)["points"] == 9000


def test_a_set_without_classes_is_refused(tmp_path):
    for index in range(3):
        np.save(tmp_path / f"{index}.npy", np.random.default_rng(index).random((300, 3)))
    with pytest.raises(DataError, match="split"):
        svm.run(SvmConfig(data=tmp_path, encoder=TINY_ENCODER))


def test_fewer_points_than_the_encoder_needs(trained):
    with pytest.raises(ConfigError, match="--points 32: the encoder needs 64 points or more"):
        svm.run(SvmConfig(data="procedural", checkpoint=trained, points=32))


def test_too_few_points_name_the_shape(parts_folder):
    with pytest.raises(DataError, match="has 128 points, 129 are asked; set --points 128 or fewer"):
        svm.run(SvmConfig(data=parts_folder, points=129, encoder=TINY_ENCODER))
