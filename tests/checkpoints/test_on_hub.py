import json
import sys

import numpy as np
import pytest
import torch

from i2pmae.arguments import build_config
from i2pmae.checkpoints import checkpoint
from i2pmae.checkpoints.networks import (
    HubClassifier,
    HubEncoder,
    HubSegmenter,
    load_classifier,
    load_encoder,
    load_segmenter,
)
from i2pmae.cli import main
from i2pmae.commands import COMMANDS
from i2pmae.config import EncoderConfig, HeadConfig, SegmentHeadConfig, to_plain
from i2pmae.errors import CheckpointError, HubError, I2PMAEError
from i2pmae.evaluation.vectors import read_vectors
from i2pmae.stages import export

pytestmark = pytest.mark.filterwarnings("ignore:Use .content=:DeprecationWarning")
TINY = EncoderConfig(
    n_centers=(16, 8, 4),
    group_sizes=(4, 4, 4),
    widths=(12, 24, 48),
    depths=(1, 1, 1),
    embedding_width=8,
    radii=(0.2, 0.4, 0.8),
)
POINTS = torch.rand(2, 100, 3, generator=torch.Generator().manual_seed(0)) - 0.5


def networks():
    torch.manual_seed(0)
    encoder = HubEncoder(TINY)
    encoder.up = "z"
    head = SegmentHeadConfig(level_widths=(16, 8), widths=(16, 12, 8))
    names = ("cup", "jar"), ("a", "b", "c", "d"), ((0, 1), (2, 3))
    return {
        "encoder": (encoder, load_encoder, (POINTS,)),
        "classifier": (
            HubClassifier(TINY, HeadConfig(pooling="concat", width=16), 3, ("x", "y", "z")),
            load_classifier,
            (POINTS,),
        ),
        "segmenter": (
            HubSegmenter(TINY, 4, 2, head, *names),
            load_segmenter,
            (POINTS, torch.tensor([0, 1])),
        ),
    }


@pytest.mark.parametrize("kind", ["encoder", "classifier", "segmenter"])
def test_networks_go_to_the_hub_and_come_back(hub, tmp_path, kind):
    network, load, inputs = networks()[kind]
    network.n_points, network.sampling = 512, "fps"
    for module in network.modules():  # statistics that are not those of a new network
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    network.eval()
    name = network.push_to_hub("me/net", private=True)
    files = hub.files("me/net")
    assert files.keys() == {"model.safetensors", "config.json", "README.md"}
    assert json.loads(files["config.json"])["kind"] == kind
    card = files["README.md"].decode()
    assert "library_name: i2pmae" in card
    assert f"i2pmae.load_{kind}(" in card
    network.save_pretrained(tmp_path / "saved")
    for loaded in (
        load(name),
        type(network).from_pretrained("me/net"),
        type(network).from_pretrained("me/net", revision=name.rpartition("@")[2]),
        type(network).from_pretrained(tmp_path / "saved"),
    ):
        assert type(loaded) is type(network)
        assert loaded.described() == network.described()
        with torch.no_grad():
            assert torch.equal(loaded(*inputs), network(*inputs))
    if kind == "encoder":
        assert loaded.up == "z"
        assert HubEncoder.from_pretrained("me/net", pooling="levels").pooling == "levels"
    else:
        assert (loaded.class_names, loaded.n_points) == (network.class_names, 512)
        with pytest.raises(HubError, match="has no model me/other"):
            type(network).from_pretrained("me/other")


def test_a_card_that_is_there_stays(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    networks()["encoder"][0].save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_the_encoder_of_a_classifier_is_not_written_alone(tmp_path):
    networks()["classifier"][0].save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="load_classifier, then save or push that"):
        load_encoder(tmp_path / "model.safetensors").save_pretrained(tmp_path / "other")


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["i2pmae", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_export_pushes_and_commands_take_its_name(hub, untrained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, "export", untrained, "--push", "hf://me/tiny", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["out"], result["card"]) == (None, None)
    assert result["pushed"].startswith("hf://me/tiny@")
    card = hub.files("me/tiny")["README.md"].decode()
    assert 'i2pmae.load_encoder("hf://me/tiny")' in card
    assert "# tiny" in card
    # The commit is recorded, so a later one changes nothing.
    (tmp_path / "clouds").mkdir()
    for seed in range(3):
        np.save(tmp_path / "clouds" / f"{seed}.npy", np.random.default_rng(seed).random((99, 3)))
    options = ("--points", "99", "--out", "v.npz")
    assert command(monkeypatch, "embed", "hf://me/tiny", "clouds", *options) == 0
    assert f"hf://me/tiny is {result['pushed']}" in capsys.readouterr().err
    assert read_vectors(tmp_path / "v.npz").settings["checkpoint"] == result["pushed"]
    torch.manual_seed(1)
    HubEncoder(TINY).push_to_hub("me/tiny")
    assert command(monkeypatch, "similar", "v.npz", "clouds/2.npy", "--json") == 0
    assert json.loads(capsys.readouterr().out)["duplicates"] == ["2"]
    again = ("similar", "v.npz", "clouds/2.npy", "--checkpoint", "hf://me/tiny")
    assert command(monkeypatch, *again) == 1
    assert "hf://me/tiny@" in (error := capsys.readouterr().err)
    assert "is not that file (any more)" in error


def test_export_writes_and_pushes_at_once(hub, untrained, tmp_path):
    out = tmp_path / "model.safetensors"
    result = export.run(untrained, out, push="hf:/me/tiny@draft", dtype="float16")
    assert (result["out"], result["card"]) == (str(out), str(tmp_path / "README.md"))
    assert hub.repositories["models", "me/tiny"].refs.keys() == {"draft"}
    with pytest.raises(CheckpointError, match="give --out FILE, --push"):
        export.run(untrained)


def test_code_on_the_hub_is_never_read(hub, tmp_path):
    class Harm:
        def __reduce__(self):
            return (tmp_path.joinpath("harm").touch, ())

    torch.save({"model": Harm()}, tmp_path / "x.pt")
    hub.add("me/harm", {"pytorch_model.bin": (tmp_path / "x.pt").read_bytes()})
    hub.add("me/disguise", {"model.safetensors": (tmp_path / "x.pt").read_bytes()})
    for name, message in {
        "harm": "found none; pytorch_model",
        "disguise": "cannot be read",
    }.items():
        with pytest.raises(I2PMAEError, match=message):
            load_encoder(f"hf://me/{name}")
    assert not (tmp_path / "harm").exists()


@pytest.mark.usefixtures("hub")
def test_settings_name_the_commit(untrained):
    pushed = export.run(untrained, push="hf://me/tiny")["pushed"]
    for name in ("finetune", "svm", "evaluate"):
        given = {"checkpoint": "hf://me/tiny", "data": "procedural"}
        config = build_config(COMMANDS[name], given)
        assert to_plain(config)["checkpoint"] == pushed
        assert checkpoint.load(config.checkpoint).kind == "encoder"
