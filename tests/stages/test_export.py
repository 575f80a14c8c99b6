import json
import resource

import numpy as np
import pytest
import safetensors
import torch

import i2pmae
from i2pmae.checkpoints import checkpoint
from i2pmae.cli import app
from i2pmae.config import Config, EncoderConfig, HeadConfig, SegmentHeadConfig, to_plain
from i2pmae.errors import CheckpointError
from i2pmae.model.classifier import Classifier
from i2pmae.model.segmenter import Segmenter
from i2pmae.stages import convert, export

LOADERS = {
    "encoder": i2pmae.load_encoder,
    "classifier": i2pmae.load_classifier,
    "segmenter": i2pmae.load_segmenter,
}
TINY = EncoderConfig(
    n_centers=(16, 8, 4),
    group_sizes=(4, 4, 4),
    widths=(12, 24, 48),
    depths=(1, 1, 1),
    embedding_width=8,
)
HEAD = SegmentHeadConfig(level_widths=(16, 8), widths=(16, 12, 8))


@pytest.fixture(scope="session")
def networks(untrained, tmp_path_factory):
    """A checkpoint of each kind, with statistics that are not those of a new BatchNorm."""
    folder = tmp_path_factory.mktemp("networks")
    made = {
        "classifier": Classifier(TINY, HeadConfig(width=16), n_classes=3),
        "segmenter": Segmenter(TINY, n_parts=5, n_categories=3, head=HEAD),
    }
    paths = {"encoder": untrained}
    for kind, model in made.items():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                torch.nn.init.uniform_(module.running_mean, -1, 1)
                torch.nn.init.uniform_(module.running_var, 0.5, 2)
        paths[kind] = folder / f"{kind}.pt"
        config = {"encoder": to_plain(TINY), "head": to_plain(HeadConfig(width=16))}
        checkpoint.save(
            paths[kind],
            kind=kind,
            config=config,
            model=model.state_dict(),
            extra={"class_names": ["bed", "chair", "desk"]},
        )
    return paths


def _inputs(kind, n_clouds, n_points):
    points = torch.rand(n_clouds, n_points, 3) - 0.5
    return (points, torch.arange(n_clouds) % 3) if kind == "segmenter" else (points,)


@pytest.mark.parametrize("kind", LOADERS)
def test_weights_come_back(networks, tmp_path, kind):
    out = tmp_path / "deep" / "model.safetensors"
    result = export.run(networks[kind], out)
    assert (result["kind"], result["difference"]) == (kind, 0)
    assert result["bytes"] == out.stat().st_size
    assert sorted(path.name for path in out.parent.iterdir()) == ["README.md", out.name]
    inputs = _inputs(kind, 2, 100)
    with torch.no_grad():
        assert torch.equal(LOADERS[kind](out)(*inputs), LOADERS[kind](networks[kind])(*inputs))


def test_a_classifier_of_one_s_own_shapes_comes_back_with_all_its_settings(tmp_path):
    settings = HeadConfig(kind="probe", width=16, dropout=0)
    made = Classifier(TINY, settings, n_classes=3)
    config = {"encoder": TINY, "head": settings, "points": 64, "sampling": "spread"}
    plain = {key: to_plain(v) if isinstance(v, Config) else v for key, v in config.items()}
    checkpoint.save(tmp_path / "a.pt", kind="classifier", config=plain, model=made.state_dict())
    export.run(tmp_path / "a.pt", tmp_path / "a.safetensors")
    loaded = i2pmae.load_classifier(tmp_path / "a.safetensors")
    assert loaded.head_config == settings
    assert (loaded.n_points, loaded.sampling) == (64, "fps")


def test_the_file_of_weights_says_what_it_holds(networks, tmp_path):
    out = tmp_path / "model.safetensors"
    export.run(networks["segmenter"], out, card=False)
    with safetensors.safe_open(out, framework="pt") as file:
        metadata = file.metadata()
    described = json.loads(metadata[checkpoint.FORMAT])
    assert metadata["format"] == "pt"
    assert described["kind"] == "segmenter"
    assert described["config"]["encoder"] == to_plain(TINY)
    assert described["config"]["segment_head"]["widths"] == [16, 12, 8]
    assert described["extra"] == {"class_names": ["bed", "chair", "desk"]}
    assert described["versions"]["i2pmae"] == i2pmae.__version__


def test_the_decoder_stays_behind(networks, tmp_path):
    out = tmp_path / "model.safetensors"
    export.run(networks["encoder"], out)
    assert all(name.startswith("encoder.") for name in checkpoint.load(out).model)
    with pytest.raises(CheckpointError, match="encoder alone"):
        convert.run(out, tmp_path / "official.pth")
    with pytest.raises(CheckpointError, match="holds the encoder network"):
        i2pmae.load_classifier(out)


# Reading a graph costs as much as making it, and so do the imports of torch.export.
@pytest.mark.slow
@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:copyreg")
def test_programs_give_the_outputs_for_any_number_of_clouds_and_points(networks, tmp_path, kind):
    out = tmp_path / "model.pt2"
    result = export.run(networks[kind], out)
    assert result["difference"] < 1e-5
    extra = {export.DESCRIPTION: ""}
    program = torch.export.load(out, extra_files=extra)
    described = json.loads(extra[export.DESCRIPTION])
    assert described["kind"] == kind
    assert not any("i2pmae" in str(node.target) for node in program.graph.nodes)
    loaded, original = program.module(), LOADERS[kind](networks[kind])
    for n_clouds, n_points in ((1, 64), (4, 131)):
        inputs = _inputs(kind, n_clouds, n_points)
        with torch.no_grad():
            np.testing.assert_allclose(loaded(*inputs), original(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:copyreg")
@pytest.mark.parametrize(
    "name", [pytest.param("model.pt2", marks=pytest.mark.slow), "model.safetensors"]
)
def test_a_full_disk_is_one_line(networks, tmp_path, name):
    """Where torch writes a program itself, it ends the process."""
    out = tmp_path / name
    out.write_bytes(b"old")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, old[1]))
    try:
        with pytest.raises(CheckpointError, match="cannot write"):
            export.run(networks["encoder"], out, card=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert out.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_with_other_outputs_is_not_kept(networks, tmp_path, monkeypatch):
    save = checkpoint.save

    def spoil(path, *, model, **about):
        spoiled = {name: value + (value.ndim == 2) for name, value in model.items()}
        save(path, model=spoiled, **about)

    monkeypatch.setattr(export.checkpoint, "save", spoil)
    out = tmp_path / "model.safetensors"
    out.write_text("older")
    with pytest.raises(CheckpointError, match=r"model\.safetensors, written and .* other outputs"):
        export.run(networks["classifier"], out)
    assert out.read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("model.onnx", "the ending decides"),
        ("folder.pt2", "is a folder"),
        ("model.safetensors", "is the checkpoint itself"),
        ("nowhere/README.md/model.safetensors", "cannot write"),
    ],
)
def test_targets_that_cannot_be_are_refused(networks, tmp_path, out, message):
    (tmp_path / "folder.pt2").mkdir()
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "nowhere" / "README.md").write_text("a file")
    source = tmp_path / "model.safetensors"
    export.run(networks["classifier"], source, card=False)
    before = source.read_bytes()
    with pytest.raises(CheckpointError, match=message):
        export.run(source, tmp_path / out, card=False)
    assert source.read_bytes() == before


def test_what_is_no_checkpoint_is_refused(tmp_path):
    source = tmp_path / "notes.txt"
    source.write_text("no weights")
    with pytest.raises(CheckpointError, match=r"notes\.txt"):
        export.run(source, tmp_path / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_command_writes_file_and_card(networks, tmp_path, capsys):
    out = tmp_path / "model.safetensors"
    app(["export", str(networks["classifier"]), "--out", str(out), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["card"] == str(tmp_path / "README.md")
