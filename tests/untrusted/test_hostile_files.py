"""Small files made to take for ever, or gigabytes; each is refused soon, in one line."""

import io
import json
import pickle
import signal
import struct
import threading
import time
import zipfile
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from i2pmae.checkpoints import checkpoint
from i2pmae.checkpoints.networks import load_classifier, load_encoder
from i2pmae.config import FinetuneConfig, to_plain
from i2pmae.datasets.opening import open_source
from i2pmae.errors import CheckpointError, I2PMAEError, WeightsError
from i2pmae.evaluation.vectors import read_vectors
from i2pmae.image_model.loading import load_image_model
from i2pmae.image_model.weights import TokenLayout, check_positions, load_strictly, read_weights
from i2pmae.model.classifier import Classifier
from i2pmae.stages import export
from i2pmae.untrusted.limits import UntrustedError, check_tree, parse_json
from i2pmae.untrusted.parquet import unpacked_sizes

from ..conftest import TINY_ENCODER

SECONDS = 10.0  # of a loaded machine's processor
LONGEST = 300  # characters of a line, beside the file's path

SHARED_KEY = b"\x80\x02}K\x01\x85" + b"q\x00h\x00\x86" * 80 + b"K\x01s."
SHARED_LISTS = (
    b"\x80\x02]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60)) + b"."
)
ENDLESS = b"\x80\x02]q\x00h\x00a."
DEEP = b"\x80\x02" + b"]" * 10_000 + b"a" * 9_999 + b"."
FAR_MEMO = b"\x80\x02]r\xff\xff\xff\x7f."
HUGE_NUMBER = b"\x80\x02}U\x01a\x8b" + struct.pack("<I", 10**6) + b"\x7f" * 10**6 + b"s."
SETS = b"\x80\x04(" + b"\x8f" * 4_000_000 + b"l."
DICTIONARIES = b"\x80\x02(" + b"}" * 4_000_000 + b"l."
_TEXT = b"X" + struct.pack("<I", 2_000_000) + b"a" * 2_000_000
COPIES = (
    b"\x80\x02(c_codecs\nencode\nq\x00" + _TEXT + b"X\x06\0\0\0latin1\x86q\x01"
    + b"h\x00h\x01R" * 1800 + b"l."
)  # fmt: skip
COLLIDING = b"\x80\x02}(" + b"".join(b"J%bN" % struct.pack("<i", i) for i in range(99_999)) + b"u."
PICKLES = [SHARED_KEY, SHARED_LISTS, ENDLESS, DEEP, FAR_MEMO, HUGE_NUMBER, SETS, COPIES,
           COLLIDING]  # fmt: skip
pytestmark = pytest.mark.usefixtures("little_memory")


def torch_zip(path, pickled, *, program=False, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/constants.pkl" if program else "a/version", b"\x80\x02).")
    return path


def refused(read, path, match=None, kind=I2PMAEError):
    """Reading ends soon, in one short line."""
    started = time.process_time()
    with pytest.raises(kind, match=match) as caught:
        read(str(path) if isinstance(read, partial) else path)
    line = str(caught.value)
    assert time.process_time() - started < SECONDS
    assert "\n" not in line
    assert len(line.replace(str(path), "")) <= LONGEST, line
    return line


@pytest.mark.parametrize("data", [*PICKLES, DICTIONARIES])
def test_pickles_of_data_sets(tmp_path, data):
    (tmp_path / "modelnet40_train_8192pts_fps.dat").write_bytes(data)
    refused(lambda path: open_source(path, layout="modelnet-pickle"), tmp_path)


@pytest.mark.parametrize("program", [False, True])
@pytest.mark.parametrize("read", [checkpoint.load, read_weights])
@pytest.mark.parametrize("data", PICKLES)
def test_pickles_in_torch_files(tmp_path, read, data, program):
    refused(read, torch_zip(tmp_path / "a.pt", data, program=program))


def test_ctrl_c_ends_reading(tmp_path):
    path = torch_zip(tmp_path / "a.pt", DICTIONARIES)
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])

    def load():
        timer.start()
        checkpoint.load(path)

    started = time.process_time()
    with pytest.raises(KeyboardInterrupt):
        load()
    timer.join()
    assert time.process_time() - started < SECONDS


@pytest.mark.parametrize("data", PICKLES)
def test_pickles_in_torch_files_of_old(tmp_path, data):
    saved = io.BytesIO()
    torch.save([], saved, _use_new_zipfile_serialization=False)
    start = saved.getvalue().index(pickle.dumps([], 2))
    (tmp_path / "a.pt").write_bytes(saved.getvalue()[:start] + data)
    refused(checkpoint.load, tmp_path / "a.pt")


@pytest.mark.parametrize("program", [False, True])
def test_compressed_torch_files(tmp_path, program):
    data = b"\x80\x02(" + b"]" * 10_000_000 + b"l."
    path = torch_zip(tmp_path / "a.pt", data, program=program, compression=zipfile.ZIP_DEFLATED)
    refused(read_weights, path, "compressed")


def test_entries_that_lie_over_each_other(tmp_path):
    torch.save({"a": torch.ones(10_000)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as archive:
        (entry,) = (entry for entry in archive.infolist() if entry.filename.endswith("/data/0"))
        archive.filelist.extend([entry] * 1000)
        archive.writestr("more", b"")
    refused(read_weights, tmp_path / "a.pt", "larger than the file")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "tensor",
    [
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.ones(10**9, device="meta"),
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        lambda: torch.ones(3, dtype=torch.complex64),
        lambda: torch.ones(3).to(torch.float8_e4m3fn),
        lambda: torch.ones(1).expand(10**10),
    ],
    ids=["sparse", "meta", "quantized", "complex", "float8", "repeated"],
)
@pytest.mark.filterwarnings("ignore:.*[Ss]parse", "ignore:.*quantiz")
def test_tensors_that_are_not_dense_numbers(tmp_path, tensor, legacy):
    torch.save({"a": tensor()}, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    for read in (checkpoint.load, read_weights):
        refused(read, tmp_path / "a.pt", r"cannot be read.*(torch that are not|repeats)")


def test_views_that_repeat_their_numbers_in_many_tensors(tmp_path):
    numbers = torch.ones(1_000_000)
    torch.save({f"{i}": numbers.view(1000, 1000) for i in range(3)}, tmp_path / "a.pt")
    assert len(read_weights(tmp_path / "a.pt")) == 3
    torch.save({f"{i}": numbers.view(1000, 1000) for i in range(100)}, tmp_path / "a.pt")
    refused(read_weights, tmp_path / "a.pt", "many tensors")


def test_complex_numbers_in_safetensors(tmp_path):
    save_file({"a": torch.ones(3, dtype=torch.complex64)}, tmp_path / "a.safetensors")
    for read in (checkpoint.load, read_weights):
        refused(read, tmp_path / "a.safetensors", "complex64")


@pytest.mark.parametrize("depth", [300, 100_000])
def test_deep_json_in_safetensors(tmp_path, depth):
    text = '{"config":' + "[" * depth + "]" * depth + "}"
    save_file({"a": torch.ones(3)}, tmp_path / "a.safetensors", {checkpoint.FORMAT: text})
    refused(checkpoint.load, tmp_path / "a.safetensors", "cannot be read")


@pytest.mark.parametrize("save", [torch.save, save_file])
def test_long_names(tmp_path, save):
    path = tmp_path / ("a.pt" if save is torch.save else "a.safetensors")
    save({"a" * 1_000_000: torch.ones(3)}, path)
    for read in (checkpoint.load, read_weights):
        refused(read, path, "a name in it has 1,000,000 characters")
    save({"b" * 999: torch.ones(3)}, path)
    refused(checkpoint.load, path)
    weights = read_weights(path)
    refused(lambda source: load_strictly(nn.Linear(1, 1), weights, str(source)), path)


def _npy(shape, descr, data=b""):
    header = io.BytesIO()
    about = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    return header.getvalue() + data


def test_text_of_width_0_in_vectors(tmp_path):
    with zipfile.ZipFile(tmp_path / "v.npz", "w") as archive:
        for name in ("ids", "splits"):
            archive.writestr(f"{name}.npy", _npy((60_000_000,), "<U0"))
        archive.writestr("labels.npy", _npy((0,), "<i8"))
        archive.writestr("vectors.npy", _npy((0, 4), "<f4"))
        archive.writestr("class_names.npy", _npy((0,), "<U1"))
        archive.writestr("settings.npy", _npy((), "<U2", "{}".encode("utf-32-le")))
    refused(read_vectors, tmp_path / "v.npz", "ids is of <U0")


def test_one_long_text_in_all_rows_of_vectors(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    n, path = 90_000, tmp_path / "v.parquet"
    zeros = arrow.array(np.zeros(n, np.int32))
    texts = {
        name: arrow.DictionaryArray.from_arrays(zeros, arrow.array([text]))
        for name, text in {"id": "a" * 45_000, "split": ""}.items()
    }
    vector = arrow.FixedSizeListArray.from_arrays(arrow.array(np.zeros(n, np.float32)), 1)
    table = arrow.table({**texts, "label": arrow.array(np.zeros(n, np.int64)), "vector": vector})
    about = json.dumps({"class_names": ["a"], "settings": {}})
    parquet.write_table(table.replace_schema_metadata({b"i2pmae": about}), path, compression="zstd")
    assert path.stat().st_size < 5000
    refused(read_vectors, path, "repeats a long text")


def _varint(number, length=0):
    """An integer of Thrift's compact protocol, on at least so many bytes."""
    number *= 2  # the sign is the last bit
    out = []
    while number > 127 or len(out) < length - 1:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def test_pages_of_vectors_that_unpack_to_more_than_the_file_says(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "v.parquet"
    vector = arrow.FixedSizeListArray.from_arrays(arrow.array(np.zeros(4, np.float32)), 4)
    columns = {"id": ["a" * 50_000_000], "label": [0], "split": ["train"], "vector": vector}
    about = json.dumps({"class_names": ["a"], "settings": {}})
    table = arrow.table(columns).replace_schema_metadata({b"i2pmae": about})
    options = {"use_dictionary": False, "write_statistics": False}
    parquet.write_table(table, path, compression="zstd", **options)
    true = _varint(
        parquet.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size
    )
    data = path.read_bytes()
    place = data.rindex(true)
    path.write_bytes(data[:place] + _varint(1000, len(true)) + data[place + len(true) :])
    assert path.stat().st_size < 10_000
    refused(read_vectors, path, "a page unpacks to more than the file says")


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["zstd", "snappy", "none"])
def test_pages_of_honest_files_say_their_sizes(tmp_path, compression, version):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "v.parquet"
    columns = {
        "a": [f"name {i}" for i in range(2000)],
        "b": [None, 1.5] * 1000,
        "c": [["x"]] * 2000,
    }
    options = {"data_page_version": version, "row_group_size": 700, "data_page_size": 900}
    parquet.write_table(arrow.table(columns), path, compression=compression, **options)
    about = parquet.ParquetFile(path).metadata
    groups = [about.row_group(index) for index in range(about.num_row_groups)]
    said = sum(group.column(i).total_uncompressed_size for group in groups for i in range(3))
    with path.open("rb") as stream:
        sizes = [*unpacked_sizes(stream, about)]
    assert len(sizes) > 10
    assert 0.7 * said < sum(sizes) < said


@pytest.mark.parametrize(
    "data", [b"", b"\x15", b"\x19" * 99, b"\xff" * 99, b"\x1c" * 99, b"\x15\x01\0"]
)
def test_headers_of_pages_that_are_damaged(data):
    column = SimpleNamespace(
        dictionary_page_offset=None, data_page_offset=4, total_compressed_size=100
    )
    group = SimpleNamespace(column=lambda _: column)
    about = SimpleNamespace(num_row_groups=1, num_columns=1, row_group=lambda _: group)
    with pytest.raises(UntrustedError, match="a page's header is damaged"):
        list(unpacked_sizes(io.BytesIO(b"PAR1" + data), about))


@pytest.fixture
def classifier(tmp_path):
    """Writes a classifier's checkpoint with other contents."""
    model = Classifier(TINY_ENCODER, FinetuneConfig(out="o", data="d").head, 3)

    def write(config=None, extra=None, **weights):
        checkpoint.save(
            tmp_path / "last.pt",
            kind="classifier",
            config={"encoder": to_plain(TINY_ENCODER), **(config or {})},
            model={**model.state_dict(), **weights},
            extra=extra,
        )
        return tmp_path / "last.pt"

    return write


@pytest.mark.parametrize(
    ("config", "extra"),
    [
        ({"optim": {}, "epochs": 3}, {}),
        ({"optim": {}, "unknown": 1}, {}),
        ({"encoder": {"unknown": 1}}, {}),
        ({"head": {"unknown": 1}}, {}),
        ({"head": 3}, {}),
        ({}, {"class_names": torch.ones(3)}),
        ({}, {"class_names": 3}),
        ({}, {"store": 3}),
        ({"augment": 3}, {}),
    ],
)
def test_settings_of_an_exported_checkpoint_that_mean_nothing(classifier, tmp_path, config, extra):
    path = classifier(config, extra)
    if config or "store" not in extra:  # which is shown only where there are settings of a run
        refused(lambda path: export.run(path, tmp_path / "o.safetensors"), path)
        assert not (tmp_path / "o.safetensors").exists()


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (lambda weight: weight.fill_(torch.nan), "not finite"),
        (lambda weight: weight.fill_(torch.inf), "not finite"),
        (lambda weight: weight.bool(), "torch.bool, expected torch.float32"),
        (lambda weight: weight.long(), "torch.int64, expected torch.float32"),
    ],
)
def test_weights_that_are_no_numbers(classifier, value, match):
    path = classifier()
    saved = checkpoint.load(path)
    name = next(name for name in saved.model if name.startswith("encoder."))
    path = classifier(**{name: value(saved.model[name].clone())})
    for read in (load_encoder, load_classifier):
        refused(read, path, match, CheckpointError)


def test_weights_of_an_image_model_of_another_type():
    weights = {"weight": torch.ones(2, 3, dtype=torch.bool), "bias": torch.ones(2)}
    with pytest.raises(WeightsError, match=r"1 of another type \(weight is torch.bool"):
        load_strictly(nn.Linear(3, 2), weights, "w.pt")


def test_weights_of_a_sibling_network(tmp_path):
    torch.save(timm.create_model("mobilevit_xxs").state_dict(), tmp_path / "w.pt")
    load = partial(load_image_model, "timm:edgenext_xx_small")
    refused(load, tmp_path / "w.pt", "does not fit", WeightsError)


def test_position_embeddings_of_one_axis():
    module = nn.ParameterDict({"positions": torch.zeros(1, 17, 8)})
    check_positions({"positions": torch.zeros(17)}, module, TokenLayout("positions", 16, 14), "w")


def test_trees_are_measured_where_values_share_others():
    check_tree({"a": [1, 2.0, None, "text"], "b": ((1,),)})
    shared = "x" * 1000
    check_tree([shared] * 1000)
    with pytest.raises(UntrustedError, match="no end"):
        check_tree([[shared] * 1000] * 1000)
    deep = []
    for _ in range(150):
        deep = [deep]
    check_tree(deep)
    with pytest.raises(UntrustedError, match="no end"):
        check_tree(_above(deep, 100))
    with pytest.raises(UntrustedError, match="its JSON cannot be read"):
        parse_json("{")


def _above(value, n):
    """The value, and again below n lists."""
    inner = value
    for _ in range(n):
        inner = [inner]
    return [value, inner]
