import io
import json
import os
import pickle
import resource
import signal
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from i2pmae.checkpoints import checkpoint
from i2pmae.checkpoints.checkpoint import (
    Checkpoint,
    load,
    load_encoder_weights,
    load_weights,
    notes_on_axes,
    save,
    save_official,
)
from i2pmae.errors import CheckpointError
from i2pmae.untrusted.tensors import read_tensors


class Network(nn.Module):
    """An encoder with BatchNorm, and a head."""

    def __init__(self, width=4, classes=2):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))
        self.head = nn.Linear(width, classes)


def save_network(path, model, **values):
    settings = {"kind": "classifier", "config": {"epochs": 3}, "model": model.state_dict()}
    save(path, **{**settings, **values})


def train(model, optimizer, steps):
    for step in range(steps):
        inputs = torch.rand(4, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model.head(model.encoder(inputs)).square().mean().backward()
        optimizer.step()


def test_everything_comes_back_and_training_goes_on_to_the_same_numbers(tmp_path):
    path = tmp_path / "new" / "folder" / "last.pt"
    model = Network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    train(model, optimizer, 2)
    save_network(
        path,
        model,
        optimizer=optimizer.state_dict(),
        epoch=2,
        step=7,
        metrics={"best": 93.5, "losses": [1.0, None]},
        extra={"store": {"views": 3}},
    )
    train(model, optimizer, 2)

    back = load(path)
    assert (back.kind, back.config, back.epoch, back.step) == ("classifier", {"epochs": 3}, 2, 7)
    assert back.metrics == {"best": 93.5, "losses": [1.0, None]}
    assert back.extra == {"store": {"views": 3}}
    assert back.versions["torch"] == torch.__version__
    resumed = Network()
    load_weights(resumed, back)
    resumed_optimizer = torch.optim.AdamW(resumed.parameters(), lr=0.5, fused=True)
    resumed_optimizer.load_state_dict(back.optimizer)
    train(resumed, resumed_optimizer, 2)
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_file_loads_with_weights_only_and_leaves_nothing_beside_it(tmp_path):
    save_network(tmp_path / "last.pt", Network())
    assert os.listdir(tmp_path) == ["last.pt"]
    payload = torch.load(tmp_path / "last.pt", weights_only=True)
    assert payload["format"] == checkpoint.FORMAT


def test_safetensors_hold_all_but_the_optimizer(tmp_path):
    model = Network()
    save_network(tmp_path / "w.safetensors", model, optimizer={"state": {}}, epoch=5)
    back = load(str(tmp_path / "w.safetensors"))
    assert (back.kind, back.epoch, back.optimizer) == ("classifier", 5, None)
    assert load_weights(Network(), back).parameters == 4 * 3 + 4 + 4 + 4 + 2 * 4 + 2


@pytest.mark.parametrize(
    "value",
    [np.float64(1.0), object(), {1, 2}, torch.float32, io.BytesIO],
    ids=["float64", "object", "set", "dtype", "class"],
)
def test_values_that_could_not_be_read_back_are_refused_before_writing(tmp_path, value):
    with pytest.raises(TypeError, match=r"metrics.*best"):
        save_network(tmp_path / "last.pt", Network(), metrics={"best": [value]})
    assert os.listdir(tmp_path) == []


@contextmanager
def full_disk():
    """No file may grow past 2 kB, as if the disk were full.

    Only around the call in question: the limit holds for the file that pytest's output goes to.
    """
    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, old_limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)


@pytest.mark.parametrize("name", ["last.pt", "last.safetensors"])
def test_a_full_disk_leaves_the_old_file_intact(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"old")
    network = Network(width=1000)
    with (
        pytest.raises(CheckpointError, match=f"cannot write .*{name}: .*Make room"),
        full_disk(),
    ):
        save_network(path, network)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [name]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot write .*last\.pt: File exists"):
        save_network(tmp_path / "file" / "last.pt", Network())


def test_a_killed_save_leaves_the_old_file_and_the_next_one_cleans_up(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_network(path, Network(), epoch=1)
    (tmp_path / ".last.tmp.pt").write_bytes(b"half")
    assert load(path).epoch == 1

    def killed(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            save_network(path, Network(), epoch=2)
    assert load(path).epoch == 1
    assert os.listdir(tmp_path) == ["last.pt"]


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load(tmp_path / "none.pt")
    save_network(tmp_path / "last.pt", Network())
    with pytest.raises(CheckpointError, match=r"is a folder, .* it holds last\.pt"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"", b"hello, not a checkpoint", b"PK\x03\x04 and no more", b"\x80\x02}q\x00", b"\xff" * 999],
    ids=["empty", "text", "zip", "pickle", "noise"],
)
def test_foreign_files_are_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} .*(official|empty)") as error:
        load(tmp_path / name)
    one_line(error)


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95, 0.999])
def test_truncated_files_are_one_line(tmp_path, name, share):
    path = tmp_path / name
    save_network(path, Network(width=100))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="cannot be read") as error:
        load(path)
    one_line(error)


def test_flipped_bytes_in_a_checkpoint_are_noticed(tmp_path):
    path = tmp_path / "a.pt"
    model = Network(width=64)
    save_network(path, model)
    content = bytearray(path.read_bytes())
    position = content.index(model.head.weight.detach().numpy().tobytes()) + 5
    content[position] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"wrong checksum of .*data"):
        load(path)


def test_a_compressed_archive_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000_000))
    with pytest.raises(CheckpointError, match="compressed entries"):
        load(tmp_path / "a.pt")


class Malicious:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_a_file_with_code_is_named_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"base_model": {}, "bomb": Malicious()}, "bomb.pth")
    with pytest.raises(
        CheckpointError, match=r"bomb\.pth .*posix\.system.*could run code"
    ) as error:
        load("bomb.pth")
    one_line(error)
    assert not (tmp_path / "executed").exists()


def rewrite(path, **values):
    payload = torch.load(path, weights_only=True)
    payload.update(values)
    torch.save(payload, path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format_version": 99}, "update i2pmae"),
        ({"format_version": None}, "update i2pmae"),
        ({"kind": "poem"}, "no weights of a known kind"),
        ({"model": {}}, "no weights of a known kind"),
        ({"model": {"encoder": 3}}, "no weights of a known kind"),
        ({"epoch": "two"}, "no usable 'epoch'"),
        ({"optimizer": 3}, "no usable 'optimizer'"),
    ],
)
def test_a_damaged_checkpoint_of_ours_is_one_line(tmp_path, values, message):
    path = tmp_path / "last.pt"
    save_network(path, Network())
    rewrite(path, **values)
    with pytest.raises(CheckpointError, match=message) as error:
        load(path)
    assert str(path) in one_line(error)


def test_encoder_weights_alone_are_copied_and_reported(tmp_path):
    trained, fresh = Network(classes=2), Network(classes=5)
    head = fresh.head.weight.detach().clone()
    save_network(tmp_path / "last.pt", trained)
    report = load_encoder_weights(fresh, load(tmp_path / "last.pt"))
    assert torch.equal(fresh.encoder[0].weight, trained.encoder[0].weight)
    assert torch.equal(fresh.head.weight, head)
    assert len(report.loaded) == 7
    assert report.parameters == 12 + 4 + 8
    assert report.initial == report.unused == ("head.bias", "head.weight")
    assert str(report) == "loaded 7 tensors (0.00 M parameters); new: head (2); left out: head (2)"


def partial(model, keep):
    return checkpoint.Checkpoint(
        kind="pretraining",
        config={},
        model={name: value for name, value in model.state_dict().items() if keep(name)},
    )


@pytest.mark.parametrize("missing", ["encoder.0.weight", "encoder.1.running_mean", "encoder"])
def test_missing_encoder_weights_are_an_error_and_change_nothing(missing):
    fresh = Network()
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    saved = partial(Network(), lambda name: not name.startswith(missing))
    with pytest.raises(CheckpointError, match=f"lacks .* of 7 tensors .*{missing}"):
        load_encoder_weights(fresh, saved)
    assert all(torch.equal(before[name], value) for name, value in fresh.state_dict().items())


def test_a_network_without_encoder_is_an_error():
    with pytest.raises(CheckpointError, match="of 0 tensors"):
        load_encoder_weights(nn.Linear(2, 2), partial(Network(), bool))


def test_another_width_names_the_first_shape_that_differs():
    with pytest.raises(CheckpointError, match=r"encoder\.0\.bias has shape \(8,\) .* and \(4,\)"):
        load_encoder_weights(Network(width=4), partial(Network(width=8), bool))


def test_all_weights_must_have_a_place():
    saved = partial(Network(), bool)
    with pytest.raises(CheckpointError, match=r"no place for: encoder\.0\.bias, .*and 6 more"):
        load_weights(Network().head, saved)
    with pytest.raises(CheckpointError, match=r"lacks 2 of 9 .*head\.bias, head\.weight"):
        load_weights(Network(), partial(Network(), lambda name: "head" not in name))


def test_numpy_scalars_of_official_files_become_plain_values(tmp_path):
    torch.save({"accuracy": np.float64(0.5), "epoch": np.int64(3)}, tmp_path / "a.pth")
    payload = read_tensors(tmp_path / "a.pth").value
    assert payload == {"accuracy": 0.5, "epoch": 3}
    assert type(payload["accuracy"]) is float


def test_other_numpy_objects_are_refused(tmp_path):
    torch.save({"text": np.str_("abc")}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(tmp_path / "a.pth")


def test_a_pickle_that_is_no_dictionary_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        load(tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps({"weights": 1}, protocol=2))
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(tmp_path / "b.pth")


@pytest.fixture
def released(parity):
    """Official state dicts with every axis cut to at most two."""

    def make(name):
        entries = json.loads((parity / f"{name}_state_dict.json").read_text())["entries"]
        generator = torch.Generator().manual_seed(0)
        return {
            entry["key"]: torch.rand([min(2, n) for n in entry["shape"]], generator=generator)
            for entry in entries
        }

    return make


@pytest.mark.parametrize(
    ("name", "kind", "home", "n_tensors"),
    [
        ("i2p_mae", "pretraining", "base_model", 295),
        ("i2p_mae_modelnet40", "classifier", "base_model", 249),
        ("i2p_mae_scanobjectnn", "classifier", "base_model", 249),
        ("point_m2ae_seg", "segmenter", "model_state_dict", 308),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_official_files_are_read_and_written_back(
    tmp_path, released, name, kind, home, n_tensors, prefix
):
    weights = released(name)
    wrapped = {f"{prefix}{key}": value for key, value in weights.items()}
    content = {home: wrapped, "epoch": 3, "best": {"acc": np.float64(93.0)}}
    torch.save(content, tmp_path / "a.pth")
    saved = load(tmp_path / "a.pth")
    assert (saved.kind, saved.official, saved.config) == (kind, True, {})
    assert len(saved.model) == n_tensors
    assert saved.notes == (
        (f"stripped the prefix 'module.' from {n_tensors} names",) if prefix else ()
    )

    assert save_official(tmp_path / "back" / "b.pth", saved) == n_tensors
    back = torch.load(tmp_path / "back" / "b.pth", weights_only=True)[home]
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], value) for key, value in weights.items())


def test_bare_official_weights_and_safetensors_are_read(tmp_path, released):
    weights = released("i2p_mae_modelnet40")
    torch.save(weights, tmp_path / "a.pth")
    save_file(weights, tmp_path / "a.safetensors")
    for suffix in (".pth", ".safetensors"):
        saved = load(tmp_path / f"a{suffix}")
        assert saved.kind == "classifier"
        assert saved.official


def test_the_image_model_of_an_official_file_is_dropped_and_named(tmp_path, released):
    weights = released("i2p_mae")
    image_model = {f"clip_model.visual.{i}": torch.ones(2) for i in range(3)}
    torch.save({"base_model": weights | image_model}, tmp_path / "a.pth")
    saved = load(tmp_path / "a.pth")
    assert len(saved.model) == 295
    assert saved.notes == ("dropped the image model: 3 tensors clip_model.*",)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_weights_of_another_network_are_one_line(tmp_path, name):
    weights = {"conv1.weight": torch.ones(2)}
    if name.endswith("pth"):
        torch.save(weights, tmp_path / name)
    else:
        save_file(weights, tmp_path / name)
    with pytest.raises(CheckpointError, match=f"{name}: not a checkpoint of") as error:
        load(tmp_path / name)
    one_line(error)


def test_a_file_without_weights_says_what_it_holds(tmp_path):
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"holds no weights of a network \(epoch, lr\)"):
        load(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("config", "extra", "up"),
    [
        ({}, {}, "y"),
        ({"up": "z"}, {}, "z"),  # fine-tuned from files
        ({"up": "y"}, {"up": "z"}, "z"),  # fine-tuned from a store
        ({}, {"store": {"up": "x"}}, "x"),  # pre-trained
        ({"up": ["z"]}, {"store": "z"}, "y"),
    ],
)
def test_a_checkpoint_knows_which_axis_pointed_up(config, extra, up):
    saved = Checkpoint("classifier", config, {}, extra=extra)
    assert saved.up == up
    assert notes_on_axes(saved.up, up) == []
    assert f"--up {up}, these are read with --up q" in notes_on_axes(saved.up, "q")[0]
