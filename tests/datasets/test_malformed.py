"""Damaged, mislabeled and hostile data: one line that names the file and the remedy."""

import gzip
import json
import pickle
import re
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from i2pmae.datasets import open_source
from i2pmae.errors import DataError

REMEDY = re.compile(
    r"\b(download|export|convert|remove|rename|unpack|mend|repair|fix|give|use|add|separate|store|save|check|"
    r"move|choose|fill|expected|simplify|replace|copy|read)\b",
    re.IGNORECASE,
)
BOM = b"\xef\xbb\xbf"


def edit(name, change):
    """Rewrite the bytes of a file."""

    def damage(root):
        (root / name).write_bytes(change((root / name).read_bytes()))

    return damage


def swap(name, old, new):
    def change(data):
        assert old in data
        return data.replace(old, new, 1)

    return edit(name, change)


def gone(name):
    return lambda root: (root / name).unlink()


def packed(name):
    """As left by a tool that compresses under the same name."""
    return edit(name, gzip.compress)


def renamed(name, new):
    return lambda root: (root / name).rename(root / new)


def crlf(name):
    return edit(name, lambda data: data.replace(b"\n", b"\r\n"))


def half(name):
    return edit(name, lambda data: data[: len(data) // 2])


def h5(name, change):
    def damage(root):
        with h5py.File(root / name, "r+") as file:
            change(file)

    return damage


def replace(key, values, **options):
    def change(file):
        del file[key]
        file.create_dataset(key, data=values, **options)

    return change


def empty_array(key, shape, **options):
    def change(file):
        del file[key]
        file.create_dataset(key, shape=shape, dtype="f4", **options)

    return change


def array(name, values):
    return lambda root: np.save(root / name, np.asarray(values))


def pickled(name, change):
    def damage(root):
        value = pickle.loads((root / name).read_bytes())
        (root / name).write_bytes(pickle.dumps(change(value)))

    return damage


def listed(name, change):
    return edit(name, lambda data: json.dumps(change(json.loads(data))).encode())


def with_nan(n=48, columns=3):
    values = np.random.default_rng(0).random((n, columns)).astype(np.float32)
    values[5, 1] = np.nan
    return values


def glb(change):
    """Rewrite the scene of a .glb."""

    def rewrite(data):
        n = int.from_bytes(data[12:16], "little")
        scene = json.loads(data[20 : 20 + n])
        change(scene)
        text = json.dumps(scene).encode()
        text += b" " * (-len(text) % 4)
        body = struct.pack("<I4s", len(text), b"JSON") + text + data[20 + n :]
        return data[:8] + struct.pack("<I", 12 + len(body)) + body

    return edit("box/train/box_4.glb", rewrite)


def npz_bomb(path):
    """120 MB of zeros in 120 kB, with an honest header."""
    head = np.lib.format.header_data_from_array_1_0(np.zeros((1, 3)))
    head["shape"] = (5_000_000, 3)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("points.npy", "w") as member,
    ):
        np.lib.format.write_array_header_1_0(member, head)
        for _ in range(12):
            member.write(bytes(10_000_000))


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/executed-by-a-pickle"),))


TRAIN0, TRAIN1 = "ply_data_train0.h5", "ply_data_train1.h5"
OBJ_BG = "h5_files/main_split/training_objectdataset.h5"
AIRPLANE = "airplane/airplane_0001.txt"
CLOUD = "shapenet_pc/02691156-aa11.npy"
PART = "02691156/a1airplane.txt"
LISTS = "train_test_split/shuffled_train_file_list.json"
DAT = "modelnet40_train_8192pts_fps.dat"
PKL = "5way_10shot/0.pkl"
SPHERE = np.random.default_rng(1).standard_normal((48, 3))

# Layout, damage, what the message must name.
VARIANTS = {
    # hdf5 as of ModelNet
    "no list": ("modelnet_hdf5", gone("train_files.txt"), "train_files.txt is missing"),
    "no classes": ("modelnet_hdf5", gone("shape_names.txt"), "shape_names.txt is missing"),
    "classes misspelt": (
        "modelnet_hdf5",
        renamed("shape_names.txt", "shapes_names.txt"),
        "shapes_names.txt is there: rename",
    ),
    "no hdf5": ("modelnet_hdf5", gone(TRAIN1), f"{TRAIN1} is missing"),
    "list packed": (
        "modelnet_hdf5",
        renamed("train_files.txt", "train_files.txt.gz"),
        "only train_files.txt.gz is there",
    ),
    "list in gzip": ("modelnet_hdf5", packed("train_files.txt"), "train_files.txt is gzip"),
    "hdf5 in gzip": ("modelnet_hdf5", packed(TRAIN0), f"{TRAIN0} is gzip"),
    "list CRLF": ("modelnet_hdf5", crlf("train_files.txt"), "train_files.txt has Windows line"),
    "list BOM": (
        "modelnet_hdf5",
        edit("shape_names.txt", lambda data: BOM + data),
        "shape_names.txt begins with a byte-order mark",
    ),
    "list UTF-16": (
        "modelnet_hdf5",
        edit("shape_names.txt", lambda data: data.decode().encode("utf-16")),
        "shape_names.txt is UTF-16",
    ),
    "list Latin-1": (
        "modelnet_hdf5",
        swap("shape_names.txt", b"sofa", "sof\xe4".encode("latin1")),
        "shape_names.txt is not UTF-8",
    ),
    "list binary": (
        "modelnet_hdf5",
        edit("shape_names.txt", lambda data: data + b"\0\1"),
        "shape_names.txt is binary",
    ),
    "list empty": ("modelnet_hdf5", edit("train_files.txt", lambda _: b""), "train_files.txt is e"),
    "class blank": (
        "modelnet_hdf5",
        swap("shape_names.txt", b"bed\n", b"\n"),
        "shape_names.txt: line 2 is blank",
    ),
    "class twice": (
        "modelnet_hdf5",
        swap("shape_names.txt", b"bed\n", b"chair\n"),
        "shape_names.txt: line 3 repeats 'chair'",
    ),
    "file twice": (
        "modelnet_hdf5",
        swap("train_files.txt", b"train1", b"train0"),
        "train_files.txt: line 2 repeats",
    ),
    "file in both folders": (
        "modelnet_hdf5",
        swap(
            "train_files.txt",
            b"data/modelnet40_ply_hdf5_2048/ply_data_train1",
            b"x/ply_data_train0",
        ),
        f": {TRAIN0} is listed twice",
    ),
    "list leads out": (
        "modelnet_hdf5",
        swap("train_files.txt", b"ply_data_train0.h5", b".."),
        r"train_files.txt lists '\.\.'; expected a plain name",
    ),
    "no key": (
        "modelnet_hdf5",
        h5(TRAIN0, lambda file: file.move("data", "points")),
        f"{TRAIN0} has no 'data'; keys found: faceId, label, points",
    ),
    "no labels": (
        "modelnet_hdf5",
        h5(TRAIN0, lambda file: file.move("label", "y")),
        f"{TRAIN0} has no 'label'",
    ),
    "channels first": (
        "modelnet_hdf5",
        h5(TRAIN0, replace("data", np.zeros((5, 3, 48)))),
        r"'data' has shape \(5, 3, 48\).*Transpose it",
    ),
    "two axes": (
        "modelnet_hdf5",
        h5(TRAIN0, replace("data", np.zeros((5, 48)))),
        rf"{TRAIN0}: 'data' has shape \(5, 48\)",
    ),
    "no shapes": (
        "modelnet_hdf5",
        h5(TRAIN0, replace("data", np.zeros((0, 48, 3)))),
        rf"{TRAIN0}: 'data' has shape \(0, 48, 3\)",
    ),
    "clouds are text": (
        "modelnet_hdf5",
        h5(TRAIN0, replace("data", np.full((5, 48, 3), b"1.0"))),
        f"{TRAIN0}: 'data' holds .S3; expected numbers",
    ),
    "labels too few": (
        "modelnet_hdf5",
        h5(TRAIN0, replace("label", np.zeros(4, np.uint8))),
        rf"{TRAIN0}: 'label' has shape \(4,\)",
    ),
    "labels one-hot": (
        "modelnet_hdf5",
        h5(TRAIN0, replace("label", np.zeros((5, 10), np.uint8))),
        rf"{TRAIN0}: 'label' has shape \(5, 10\)",
    ),
    "labels real": (
        "modelnet_hdf5",
        h5(TRAIN0, replace("label", np.full(5, 0.5))),
        f"{TRAIN0}: 'label' holds float64; expected integers",
    ),
    "label too large": (
        "modelnet_hdf5",
        h5(TRAIN0, replace("label", np.array([0, 1, 10, 0, 0]))),
        f"{TRAIN0}: 'label' is 10 in row 2; expected 0 to 9",
    ),
    "label negative": (
        "modelnet_hdf5",
        h5(TRAIN0, replace("label", np.array([0, -1, 1, 0, 0]))),
        f"{TRAIN0}: 'label' is -1 in row 1",
    ),
    "mixed point counts": (
        "modelnet_hdf5",
        h5(TRAIN1, replace("data", np.zeros((4, 64, 3)))),
        f"{TRAIN1} has 64 points a shape, {TRAIN0} has 48",
    ),
    "hdf5 cut short": ("modelnet_hdf5", half(TRAIN0), f"{TRAIN0} cannot be read"),
    "hdf5 is text": ("modelnet_hdf5", edit(TRAIN0, lambda _: b"not found"), f"{TRAIN0} cannot be"),
    "hdf5 NaN": (
        "modelnet_hdf5",
        h5(TRAIN0, lambda file: file["data"].__setitem__((3, 7, 0), np.nan)),
        rf"{TRAIN0}, row 3\): 1 of 48 points are not finite .* first in row 7",
    ),
    "hdf5 all zero": (
        "modelnet_hdf5",
        h5(TRAIN0, lambda file: file["data"].__setitem__(2, 0)),
        rf"{TRAIN0}, row 2\): all 48 points coincide",
    ),
    "hdf5 never filled": (
        "modelnet_hdf5",
        h5(TRAIN0, empty_array("data", (10**9, 2048, 3), chunks=(1, 2048, 3))),
        f"{TRAIN0}: 'data' of shape .* claims 24576000000000 bytes but 0 are stored",
    ),
    "hdf5 link": (
        "modelnet_hdf5",
        h5(
            TRAIN0,
            lambda f: [f.pop("data"), f.__setitem__("data", h5py.ExternalLink(TRAIN1, "data"))],
        ),
        f"{TRAIN0}: 'data' is not an array within this file",
    ),
    "hdf5 stored elsewhere": (
        "modelnet_hdf5",
        h5(TRAIN0, empty_array("data", (5, 48, 3), external=[("/etc/hostname", 0, 2880)])),
        f"{TRAIN0}: 'data' is not an array within this file",
    ),
    "hdf5 group": (
        "modelnet_hdf5",
        h5(TRAIN0, lambda file: [file.pop("data"), file.create_group("data")]),
        f"{TRAIN0}: 'data' is not an array within this file",
    ),
    # ScanObjectNN
    "no split of the variant": ("scanobjectnn", gone(OBJ_BG), "training_objectdataset.h5 is miss"),
    "label of a 16th class": (
        "scanobjectnn",
        h5(OBJ_BG, replace("label", np.full(6, 15))),
        "training_objectdataset.h5: 'label' is 15",
    ),
    "scan cut short": ("scanobjectnn", half(OBJ_BG), "training_objectdataset.h5 cannot be read"),
    # ShapeNet-55
    "no train list": ("shapenet55", gone("ShapeNet-55/train.txt"), "train.txt is missing"),
    "no clouds": (
        "shapenet55",
        renamed("shapenet_pc", "clouds"),
        "shapenet_pc is missing; it holds the clouds",
    ),
    "list without taxonomy": (
        "shapenet55",
        swap("ShapeNet-55/train.txt", b"02691156-aa11.npy", b"aa11.npy"),
        "train.txt lists 'aa11.npy'; expected <taxonomy>-<model>.npy",
    ),
    "list of paths": (
        "shapenet55",
        swap("ShapeNet-55/train.txt", b"02691156-aa11.npy", b"../../x-y.npy"),
        "train.txt lists '../../x-y.npy'; expected a plain name",
    ),
    "shape in both splits": (
        "shapenet55",
        swap("ShapeNet-55/test.txt", b"02691156-ee55", b"02691156-aa11"),
        ": 02691156-aa11.npy is listed twice",
    ),
    "cloud missing": ("shapenet55", gone(CLOUD), "02691156-aa11.npy is missing"),
    "cloud cut short": ("shapenet55", half(CLOUD), "02691156-aa11.npy is .* bytes long"),
    "cloud too long": ("shapenet55", edit(CLOUD, lambda d: d * 2), "02691156-aa11.npy is .* bytes"),
    "cloud is no npy": ("shapenet55", edit(CLOUD, lambda _: b"text"), "02691156-aa11.npy cannot"),
    "cloud in gzip": ("shapenet55", packed(CLOUD), "02691156-aa11.npy is gzip"),
    "cloud of objects": (
        "shapenet55",
        lambda root: np.save(root / CLOUD, np.array([{}, 1], object), allow_pickle=True),
        "02691156-aa11.npy holds an array of object",
    ),
    "cloud flat": ("shapenet55", array(CLOUD, np.zeros(64)), r"shape \(64,\); expected \(points"),
    "cloud empty": ("shapenet55", array(CLOUD, np.zeros((0, 3))), "aa11.npy.*holds 0 points"),
    "cloud NaN": ("shapenet55", array(CLOUD, with_nan(64)), "aa11.npy.* not finite"),
    "cloud of another count": ("shapenet55", array(CLOUD, with_nan(63)), "63 points, others 64"),
    "header asks for a terabyte": (
        "shapenet55",
        edit(CLOUD, lambda d: d.replace(b"(64, 3), }" + b" " * 9, b"(40000000000, 3), }", 1)),
        "02691156-aa11.npy is .* bytes long, its header asks for 480000000",
    ),
    # ModelNet text
    "no shape names": (
        "modelnet_text",
        gone("modelnet40_shape_names.txt"),
        "modelnet40_shape_names.txt is missing",
    ),
    "no test list": ("modelnet_text", gone("modelnet40_test.txt"), "modelnet40_test.txt is miss"),
    "class unknown": (
        "modelnet_text",
        swap("modelnet40_train.txt", b"tv_stand_0003", b"xbox_0003"),
        "modelnet40_train.txt lists 'xbox_0003', whose class 'xbox' is not in",
    ),
    "text missing": ("modelnet_text", gone(AIRPLANE), "airplane_0001.txt is missing"),
    "text packed": (
        "modelnet_text",
        renamed(AIRPLANE, AIRPLANE + ".gz"),
        "only airplane_0001.txt.gz is there",
    ),
    "text by spaces": (
        "modelnet_text",
        edit(AIRPLANE, lambda data: data.replace(b",", b" ")),
        "airplane_0001.txt: line 1 holds 1 values .* Separate them by commas, not spaces",
    ),
    "text by semicolons": (
        "modelnet_text",
        edit(AIRPLANE, lambda data: data.replace(b",", b";")),
        "airplane_0001.txt: line 1 .* not semicolons",
    ),
    "text CRLF": ("modelnet_text", crlf(AIRPLANE), "airplane_0001.txt has Windows line ends"),
    "text BOM": ("modelnet_text", edit(AIRPLANE, lambda d: BOM + d), "airplane_0001.txt begins"),
    "text cut in a line": (
        "modelnet_text",
        edit(AIRPLANE, lambda data: data[:-30]),
        "airplane_0001.txt cannot be read",
    ),
    "text cut between lines": (
        "modelnet_text",
        edit(AIRPLANE, lambda data: b"".join(data.splitlines(True)[:20])),
        r"airplane_0001.txt\): holds 20 points, others 48",
    ),
    "text of words": (
        "modelnet_text",
        edit(AIRPLANE, lambda data: data.replace(b".", b"o", 1)),
        "airplane_0001.txt cannot be read: could not convert string",
    ),
    "text NaN": (
        "modelnet_text",
        edit(AIRPLANE, lambda data: b"nan,0,0,0,0,0\n" + data.split(b"\n", 1)[1]),
        r"airplane_0001.txt\): 1 of 48 points are not finite",
    ),
    # pickles
    "pickle missing": ("modelnet_pickle", gone(DAT), f"{DAT} is missing"),
    "pickle cut short": ("modelnet_pickle", half(DAT), f"{DAT} cannot be read"),
    "pickle in gzip": ("modelnet_pickle", packed(DAT), f"{DAT} is gzip"),
    "pickle of code": (
        "modelnet_pickle",
        pickled(DAT, lambda value: [value[0], Evil()]),
        f"{DAT} cannot be read: it names pathlib",
    ),
    "pickle of a dict": ("modelnet_pickle", pickled(DAT, lambda v: {"a": v}), f"{DAT} holds dict"),
    "pickle of unequal lists": (
        "modelnet_pickle",
        pickled(DAT, lambda value: [value[0][:-1], value[1]]),
        f"{DAT} holds 4 clouds and 5 labels",
    ),
    "pickle label out of range": (
        "modelnet_pickle",
        pickled(DAT, lambda value: [value[0], [np.array([40])] * 5]),
        f"{DAT}: label 0 is 40; expected 0 to 39",
    ),
    "pickle label of text": (
        "modelnet_pickle",
        pickled(DAT, lambda value: [value[0], ["chair"] * 5]),
        f"{DAT}: label 0 is no integer",
    ),
    "pickle cloud flat": (
        "modelnet_pickle",
        pickled(DAT, lambda value: [[np.zeros(9)] * 5, value[1]]),
        rf"{DAT}: cloud 0 is no array of points \(shape \(9,\)\)",
    ),
    "pickle mixed point counts": (
        "modelnet_pickle",
        pickled(DAT, lambda value: [[value[0][0][:7], *value[0][1:]], value[1]]),
        f"{DAT}.*: holds 7 points, others 48",
    ),
    "pickle NaN": (
        "modelnet_pickle",
        pickled(DAT, lambda value: [[with_nan(columns=6), *value[0][1:]], value[1]]),
        f"{DAT}.* not finite",
    ),
    "pickle asks for memory": (
        "modelnet_pickle",
        edit(DAT, lambda _: b"\x80\x04]r\xff\xff\xff\x7f."),
        f"{DAT} holds list; expected",
    ),
    # few-shot episodes
    "episode without test": (
        "few_shot",
        pickled(PKL, lambda value: {"train": value["train"]}),
        r"0.pkl holds dict with keys \['train'\]",
    ),
    "episode of one more way": (
        "few_shot",
        pickled(PKL, lambda v: {**v, "test": [(v["test"][0][0], 5, 1)]}),
        "0.pkl: label 50 is 5; expected 0 to 4",
    ),
    "episode with an empty class": (
        "few_shot",
        pickled(PKL, lambda v: {**v, "train": [row for row in v["train"] if row[1] != 3]}),
        "0.pkl: label 3 has test shapes but none to train on: an empty class",
    ),
    "episode of bare arrays": (
        "few_shot",
        pickled(PKL, lambda v: {**v, "train": [row[0] for row in v["train"]]}),
        r"0.pkl: item 0 is no \(points, label, class\)",
    ),
    "episode cut short": ("few_shot", half(PKL), "0.pkl cannot be read"),
    # ShapeNetPart
    "no categories": (
        "shapenetpart",
        gone("synsetoffset2category.txt"),
        "synsetoffset2category.txt is missing",
    ),
    "category without a folder": (
        "shapenetpart",
        edit("synsetoffset2category.txt", lambda data: data + b"Cup\n"),
        "'Cup' is not the name of a category and its folder",
    ),
    "no split": ("shapenetpart", gone(LISTS), "shuffled_train_file_list.json is missing"),
    "split is no JSON": ("shapenetpart", half(LISTS), "shuffled_train_file_list.json cannot be r"),
    "split is no list": (
        "shapenetpart",
        listed(LISTS, lambda value: {"shapes": value}),
        "shuffled_train_file_list.json holds no list of",
    ),
    "split leads out": (
        "shapenetpart",
        listed(LISTS, lambda value: ["shape_data/02691156/../../x", *value]),
        "shuffled_train_file_list.json lists '../../x'; expected a plain name",
    ),
    "split with an unknown synset": (
        "shapenetpart",
        listed(LISTS, lambda value: ["shape_data/00000000/x", *value]),
        "shuffled_train_file_list.json lists 'shape_data/00000000/x'",
    ),
    "split nested too deep": (
        "shapenetpart",
        edit(LISTS, lambda _: b"[" * 100_000),
        "shuffled_train_file_list.json cannot be read",
    ),
    "part of another category": (
        "shapenetpart",
        edit(PART, lambda data: data.replace(b" 3.000000\n", b" 4.000000\n", 1)),
        "a1airplane.txt: part label 4 in line 4; its category has 0 to 3",
    ),
    "part between labels": (
        "shapenetpart",
        edit(PART, lambda data: data.replace(b" 3.000000\n", b" 2.500000\n", 1)),
        "a1airplane.txt: part label 2.5 in line 4",
    ),
    "parts missing": (
        "shapenetpart",
        edit(PART, lambda data: re.sub(rb" \S+\n", b"\n", data)),
        "a1airplane.txt: line 1 holds 6 values separated by spaces; expected 7",
    ),
    # own meshes
    "OFF cut short": (
        "meshes",
        half("box/train/box_0.off"),
        "box_0.off .* it holds .* lines.* cut short",
    ),
    "OFF without header": (
        "meshes",
        edit("box/train/box_0.off", lambda data: data[4:]),
        "box_0.off has no header",
    ),
    "OFF corner out of range": (
        "meshes",
        swap("box/train/box_0.off", b"3 0 1 3\n", b"3 0 1 9\n"),
        "box_0.off: a face names vertex 9",
    ),
    "OFF promises billions": (
        "meshes",
        swap("box/train/box_0.off", b"8 12 0", b"8000000000 12 0"),
        "box_0.off .* it holds 20 lines .* promises 8000000012",
    ),
    "OFF without area": (
        "meshes",
        edit("box/train/box_0.off", lambda _: b"OFF\n3 1 0\n0 0 0\n1 1 1\n2 2 2\n3 0 1 2\n"),
        r"box/train/box_0 \(.*box_0.off\): none of its 1 faces has an area",
    ),
    "OFF of NaN": (
        "meshes",
        edit("box/train/box_0.off", lambda _: b"OFF\n3 1 0\n0 nan 0\n1 0 1\n2 2 2\n3 0 1 2\n"),
        "box_0.off: 1 of 1 faces have corners that are not finite",
    ),
    "OBJ without faces": (
        "meshes",
        edit("box/train/box_1.obj", lambda data: data.split(b"f ")[0]),
        "box_1.obj has no faces",
    ),
    "OBJ corner out of range": (
        "meshes",
        swap("box/train/box_1.obj", b"f 1 2 4 3", b"f 1 2 99 3"),
        "box_1.obj: a face names vertex 98; expected 0 to 7",
    ),
    "PLY cut short": ("meshes", half("box/train/box_2.ply"), "box_2.ply: .* it is cut short"),
    "PLY without its last byte": (
        "meshes",
        edit("box/train/box_2.ply", lambda data: data[:-1]),
        "box_2.ply cannot be read: it ends in row 11 of 12 of 'face'",
    ),
    "PLY promises billions": (
        "meshes",
        swap("box/train/box_2.ply", b"vertex 8", b"vertex 8000000000"),
        "box_2.ply: the header promises at least 96000000",
    ),
    "PLY corner out of range": (
        "meshes",
        edit("box/train/box_2.ply", lambda data: data[:-4] + struct.pack("<i", 8)),
        "box_2.ply: a face names vertex 8; expected 0 to 7",
    ),
    "PLY of unknown types": (
        "meshes",
        swap("box/train/box_2.ply", b"float x", b"quad x"),
        "box_2.ply: unknown header line 'property quad x'",
    ),
    "STL cut short": ("meshes", half("box/train/box_3.stl"), "box_3.stl is neither text nor 684 b"),
    "GLB cut short": ("meshes", half("box/train/box_4.glb"), "box_4.glb is no .glb file or is cut"),
    "GLB refers to a file": (
        "meshes",
        swap("box/train/box_4.glb", b'{"byteLength": 240}', b'{"uri":"../a.bin"} '),
        "box_4.glb keeps its data in another file",
    ),
    "GLB of zeros that are not stored": (
        "meshes",
        glb(
            lambda scene: scene["accessors"].__setitem__(
                0, {"componentType": 5126, "count": 10**10, "type": "VEC3"}
            )
        ),
        "box_4.glb cannot be read: accessor 0 has no data",
    ),
    "GLB of nodes in a ring": (
        "meshes",
        glb(lambda scene: scene.update(nodes=[{"children": [1]}, {"children": [0], "mesh": 0}])),
        "box_4.glb",
    ),
    "GLB of compressed geometry": (
        "meshes",
        glb(lambda scene: scene.update(extensionsRequired=["KHR_draco_mesh_compression"])),
        "box_4.glb requires the extension KHR_draco_mesh_compression",
    ),
    "mesh is text": (
        "meshes",
        edit("box/train/box_3.stl", lambda _: b"404"),
        "box_3.stl is neither",
    ),
    "mesh empty": ("meshes", edit("box/train/box_1.obj", lambda _: b""), "box_1.obj is empty"),
    "mesh in gzip": ("meshes", packed("box/train/box_1.obj"), "box_1.obj is gzip-compressed"),
    # own clouds
    "npz of several": (
        "clouds",
        lambda root: np.savez(root / "blob/train/b.npz", a=SPHERE, b=SPHERE),
        "b.npz holds the arrays a, b; expected one of shape",
    ),
    "npz cut short": ("clouds", half("blob/train/b.npz"), "b.npz cannot be read"),
    "npz bomb": (
        "clouds",
        lambda root: npz_bomb(root / "blob/train/b.npz"),
        "b.npz unpacks .* bytes to 120000",
    ),
    "npz of objects": (
        "clouds",
        lambda root: np.savez(root / "blob/train/b.npz", np.array([Evil()], object)),
        "b.npz holds an array of object",
    ),
    "npy of complex numbers": (
        "clouds",
        array("blob/train/a.npy", SPHERE + 0j),
        "a.npy holds an array of complex128",
    ),
    "npy of two columns": (
        "clouds",
        array("blob/train/a.npy", SPHERE[:, :2]),
        r"a.npy.* shape \(48, 2\); expected \(points, 3 or more columns\)",
    ),
    "npy of one point": (
        "clouds",
        array("blob/train/a.npy", SPHERE[:1]),
        r"a.npy\): all 1 points coincide",
    ),
    "xyz of uneven lines": (
        "clouds",
        edit("blob/train/d.xyz", lambda data: data + b"1.0 2.0\n"),
        "d.xyz cannot be read: the number of columns changed",
    ),
}


def read_all(path, layout):
    for split in ("train", "test"):
        source = open_source(path, layout, split)
        for index in range(len(source)):
            source.load(index)


@pytest.mark.parametrize("name", VARIANTS)
def test_malformed_data_end_in_one_line(name, write, tmp_path):
    layout, damage, expected = VARIANTS[name]
    root = tmp_path / "data"
    path = getattr(write, layout)(root)
    damage(root)
    chosen = "scanobjectnn-obj-bg" if layout == "scanobjectnn" else "auto"
    with pytest.raises(DataError) as caught:
        read_all(path, chosen)
    message = str(caught.value)
    assert re.search(expected, message)
    assert "\n" not in message
    assert len(message) < 700 + 2 * len(str(tmp_path))
    assert REMEDY.search(message)
    assert not Path("/tmp/executed-by-a-pickle").exists()


def test_there_are_at_least_sixty_variants():
    assert len(VARIANTS) >= 60
