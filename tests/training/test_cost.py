import pytest

from i2pmae.errors import ConfigError
from i2pmae.training.cost import pretraining_cost

from ..conftest import pretrain_config


def test_training_is_measured_with_the_networks_own_sizes(tmp_path):
    config = pretrain_config(tmp_path, tmp_path, epochs=7)
    found = pretraining_cost(config, n_shapes=100_000, n_views=3, channels=16, image_size=64)
    assert found["epochs"] == 7
    assert found["seconds"] == pytest.approx(7 * found["seconds_per_epoch"], rel=0.2)
    assert found["seconds_per_epoch"] == pytest.approx(100_000 / found["shapes_per_s"], rel=0.2)
    wider = pretraining_cost(config, n_shapes=100, n_views=3, channels=32, image_size=64)
    assert wider["parameters"] > found["parameters"]


@pytest.mark.gpu
def test_on_a_gpu_the_graph_of_whole_batches_is_measured(tmp_path, capsys):
    config = pretrain_config(tmp_path, tmp_path, device="cuda")
    found = pretraining_cost(config, n_shapes=100, n_views=3, channels=16, image_size=64)
    assert found["shapes_per_s"] > 0
    assert capsys.readouterr().err == ""


def test_training_on_too_few_points_is_refused(tmp_path):
    config = pretrain_config(tmp_path, tmp_path, points=8)
    with pytest.raises(ConfigError, match="points 8: the encoder needs"):
        pretraining_cost(config, n_shapes=1, n_views=3, channels=8, image_size=64)
