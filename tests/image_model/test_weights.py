import io
import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from i2pmae.errors import WeightsError
from i2pmae.image_model.weights import (
    TokenLayout,
    check_positions,
    file_hash,
    is_file_name,
    load_strictly,
    read_weights,
    seeded,
    tensors_hash,
)


@pytest.fixture
def weights():
    return {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


class RunsOnLoading:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "name", ["ViT-B-16.pt", "./weights", "~/x.safetensors", "a/b", "x.pth", "x.bin"]
)
def test_files_are_told_from_tags(name):
    assert is_file_name(name)


@pytest.mark.parametrize("tag", ["openai", "laion2b_s34b_b88k", "a1_in1k", "v1.0"])
def test_tags_are_told_from_files(tag):
    assert not is_file_name(tag)


@pytest.mark.parametrize("wrap", [None, "state_dict", "model", "teacher"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_checkpoints_are_unpacked(tmp_path, weights, wrap, prefix):
    inner = {prefix + name: value for name, value in weights.items()}
    torch.save({wrap: inner, "epoch": 3} if wrap else inner, tmp_path / "w.pt")
    assert_same(read_weights(tmp_path / "w.pt"), weights)


def test_safetensors_are_read(tmp_path, weights):
    save_file(weights, tmp_path / "w.safetensors")
    assert_same(read_weights(tmp_path / "w.safetensors"), weights)


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_torchscript_archives_are_read_as_data(tmp_path, dtype):
    network = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.BatchNorm1d(4))).eval()
    network.register_buffer("table", torch.arange(10.0)[2:8:2])
    torch.jit.trace(network, torch.zeros(2, 3)).save(tmp_path / "w.pt")
    expected = {name: value.to(dtype) for name, value in network.state_dict().items()}
    if dtype == torch.float16:
        torch.jit.trace(network, torch.zeros(2, 3)).half().save(tmp_path / "w.pt")
        expected["1.0.num_batches_tracked"] = torch.tensor(0)
    else:
        expected = dict(network.state_dict())
    found = read_weights(tmp_path / "w.pt")
    assert_same({name: found[name] for name in expected}, expected)


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    torch.save({"state_dict": RunsOnLoading(tmp_path / "made")}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        read_weights(tmp_path / "w.pt")
    assert not (tmp_path / "made").exists()


def test_nothing_in_a_torchscript_archive_is_executed(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("w/constants.pkl", pickle.dumps(()))
        archive.writestr("w/data.pkl", pickle.dumps(RunsOnLoading(tmp_path / "made")))
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        read_weights(tmp_path / "w.pt")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damaged_files_are_refused_in_one_line(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(b"not weights at all" * 10)
    with pytest.raises(WeightsError, match="cannot be read as weights") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused(tmp_path, weights):
    memory = io.BytesIO()
    torch.save(weights, memory)
    (tmp_path / "w.pt").write_bytes(memory.getvalue()[:-200])
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize(("value", "message"), [([1, 2], "a list"), ({"a": 1}, "no tensors")])
def test_files_without_tensors_are_refused(tmp_path, value, message):
    torch.save(value, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=message):
        read_weights(tmp_path / "w.pt")


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="no weights file"):
        read_weights(tmp_path / "absent.pt")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(WeightsError, match=r"expected one of \.pt"):
        read_weights(tmp_path / "notes.txt")


def test_strict_loading_fills_every_tensor_and_widens_halves():
    network, other = nn.Linear(3, 2), nn.Linear(3, 2)
    half = {name: value.half() for name, value in other.state_dict().items()}
    load_strictly(network, half, "file")
    assert_same(network.state_dict(), {name: value.float() for name, value in half.items()})


def test_strict_loading_names_what_does_not_fit():
    weights = {"weight": torch.zeros(2, 4)} | {f"extra.{i}": torch.zeros(1) for i in range(5)}
    with pytest.raises(WeightsError) as caught:
        load_strictly(nn.Linear(3, 2), weights, "w.pt")
    assert "1 missing (bias)" in str(caught.value)
    assert "5 unknown (extra.0, extra.1, extra.2, ...)" in str(caught.value)
    assert "weight is (2, 4), expected (2, 3)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hash_of_tensors_sees_every_change():
    weights = {"a": torch.arange(4.0), "b": torch.tensor(3)}
    reference = tensors_hash(weights)
    assert len(reference) == 64
    assert tensors_hash({"b": torch.tensor(3), "a": torch.arange(4.0)}) == reference
    changes = [
        {**weights, "a": torch.arange(4.0).view(2, 2)},
        {**weights, "a": torch.arange(4.0) + 1e-6},
        {**weights, "a": torch.arange(4)},
        {"c": weights["a"], "b": weights["b"]},
    ]
    assert len({reference, *map(tensors_hash, changes)}) == 5


def test_hash_of_a_file_by_hand(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_hash(tmp_path / "w.pt") == expected


def test_seeded_networks_repeat_and_leave_chance_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = seeded(lambda: nn.Linear(3, 2)), seeded(lambda: nn.Linear(3, 2))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_positions_of_another_size_name_the_size_to_ask_for():
    module = nn.ParameterDict({"positions": torch.zeros(1, 1 + 16, 8)})
    layout = TokenLayout("positions", 16, 14)
    check_positions({"positions": torch.zeros(1, 1 + 16, 4)}, module, layout, "w.pt")
    with pytest.raises(WeightsError, match=r"3x3 patches.*for 56 px: pass --image-size 42"):
        check_positions({"positions": torch.zeros(1, 1 + 9, 8)}, module, layout, "w.pt")
