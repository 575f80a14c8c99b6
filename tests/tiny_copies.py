"""Tiny faithful copies of every layout, in the bytes of the original."""

import json
import pickle
import struct
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

MODELNET10 = (
    "bathtub",
    "bed",
    "chair",
    "desk",
    "dresser",
    "monitor",
    "night_stand",
    "sofa",
    "table",
    "toilet",
)
SCANOBJECTNN_FOLDERS = ("main_split", "main_split_nobg")
POINTS = 48


def cloud(seed, n=POINTS, columns=3):
    return np.random.default_rng(seed).standard_normal((n, columns)).astype(np.float32)


def in_unit_sphere(points):
    points = points - points.mean(axis=0)
    return points / np.linalg.norm(points, axis=1).max()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def _h5(path: Path, data, label, **others) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=data, compression="gzip")
        file.create_dataset("label", data=label)
        for name, values in others.items():
            file.create_dataset(name, data=values)


def modelnet_hdf5(root: Path) -> Path:
    for number, (name, n) in enumerate({"train0": 5, "train1": 4, "test0": 3}.items()):
        data = np.stack([in_unit_sphere(cloud(100 * number + row)) for row in range(n)])
        label = np.arange(n, dtype=np.uint8)[:, None] % 10
        _h5(root / f"ply_data_{name}.h5", data, label, faceId=np.zeros((n, POINTS), np.int32))
    prefix = "data/modelnet40_ply_hdf5_2048"
    _write(root / "train_files.txt", f"{prefix}/ply_data_train0.h5\n{prefix}/ply_data_train1.h5\n")
    _write(root / "test_files.txt", f"{prefix}/ply_data_test0.h5\n")
    _write(root / "shape_names.txt", "\n".join(MODELNET10) + "\n")
    return root


def scanobjectnn(root: Path) -> Path:
    for seed, folder in enumerate(SCANOBJECTNN_FOLDERS):
        for suffix in ("", "_augmentedrot_scale75", "_augmented25_norot"):
            for name, n in (("training", 6), ("test", 3)):
                start = 1000 * seed + 10 * len(suffix)
                data = np.stack([cloud(start + row) for row in range(n)])
                file = root / "h5_files" / folder / f"{name}_objectdataset{suffix}.h5"
                label = np.arange(n, dtype=np.int32) % 15
                _h5(file, data, label, mask=np.zeros((n, POINTS), np.int32))
    return root


def shapenet55(root: Path) -> Path:
    shapes = {
        "train": ["02691156-aa11", "02691156-bb22", "03001627-cc33", "04379243-dd44"],
        "test": ["02691156-ee55", "03001627-ff66"],
    }
    (root / "shapenet_pc").mkdir(parents=True)
    for name, ids in shapes.items():
        _write(root / "ShapeNet-55" / f"{name}.txt", "".join(f"{i}.npy\n" for i in ids))
        for number, shape in enumerate(ids):
            np.save(root / "shapenet_pc" / f"{shape}.npy", cloud(number, 64))
    return root


def modelnet_text(root: Path) -> Path:
    shapes = {
        "train": ["airplane_0001", "night_stand_0001", "airplane_0002", "tv_stand_0003"],
        "test": ["airplane_0627", "night_stand_0201"],
    }
    for name, ids in shapes.items():
        _write(root / f"modelnet40_{name}.txt", "".join(f"{i}\n" for i in ids))
        for number, shape in enumerate(ids):
            rows = cloud(number, columns=6)
            lines = "".join(",".join(f"{value:.6f}" for value in row) + "\n" for row in rows)
            _write(root / shape.rpartition("_")[0] / f"{shape}.txt", lines)
    _write(root / "modelnet40_shape_names.txt", "airplane\nnight_stand\ntv_stand\n")
    _write(root / "filelist.txt", "airplane/airplane_0001.txt\n")
    return root


def modelnet_pickle(root: Path, protocol: int = 4) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, n in (("train", 5), ("test", 3)):
        clouds = [cloud(row, columns=6) for row in range(n)]
        labels = [np.array([7 * row], dtype=np.int32) for row in range(n)]
        file = root / f"modelnet40_{name}_8192pts_fps.dat"
        file.write_bytes(pickle.dumps([clouds, labels], protocol=protocol))
    return root


def few_shot(root: Path) -> Path:
    originals = [3, 17, 0, 39, 8]
    for fold in range(2):
        episode = {
            name: [
                (cloud(1000 * fold + 10 * way + shot, columns=6), way, originals[way])
                for way in range(5)
                for shot in range(n)
            ]
            for name, n in (("train", 10), ("test", 2))
        }
        file = root / "5way_10shot" / f"{fold}.pkl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pickle.dumps(episode))
    return root / "5way_10shot" / "0.pkl"


def shapenetpart(root: Path) -> Path:
    categories = {
        "Airplane": ("02691156", 0, 4),
        "Chair": ("03001627", 12, 4),
        "Mug": ("03797390", 36, 2),
    }
    text = "".join(f"{name}\t{synset}\n" for name, (synset, _, _) in categories.items())
    _write(root / "synsetoffset2category.txt", text)
    for split, ids in {"train": ["a1", "a2"], "val": ["b1"], "test": ["c1"]}.items():
        listed = []
        for name, (synset, first, n_parts) in categories.items():
            for shape in ids:
                listed.append(f"shape_data/{synset}/{shape}{name.lower()}")
                rows = cloud(len(listed), 30 + len(listed), columns=6)
                lines = (
                    " ".join(f"{value:.6f}" for value in row) + f" {first + k % n_parts:.6f}\n"
                    for k, row in enumerate(rows)
                )
                _write(root / synset / f"{shape}{name.lower()}.txt", "".join(lines))
        listing = root / "train_test_split" / f"shuffled_{split}_file_list.json"
        _write(listing, json.dumps(listed[::-1]))
    return root


def shapenetpart_hdf5(root: Path) -> Path:
    categories = {"Airplane": (0, 4), "Chair": (12, 4), "Mug": (36, 2)}
    synsets = ("02691156", "03001627", "03797390")
    root.mkdir(parents=True, exist_ok=True)
    pairs = zip(categories, synsets, strict=True)
    _write(root / "all_object_categories.txt", "".join(f"{a}\t{b}\n" for a, b in pairs))
    for split, n in {"train": 6, "val": 3, "test": 3}.items():
        label = np.arange(n) % 3
        ranges = [list(categories.values())[place] for place in label]
        pid = np.array([first + np.arange(POINTS) % count for first, count in ranges])
        data = np.stack([cloud(10 * n + row) for row in range(n)])
        _h5(root / f"ply_data_{split}0.h5", data, label[:, None].astype(np.uint8), pid=pid)
        _write(root / f"{split}_hdf5_file_list.txt", f"ply_data_{split}0.h5\n")
    return root


def partnet(root: Path) -> Path:
    for number, category in enumerate(("Chair", "Chair", "Lamp")):
        folder = root / "data_v0" / f"{number + 41}"
        for part in range(3):
            _write(folder / "objs" / f"original-{part}.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
        _write(folder / "meta.json", json.dumps({"model_cat": category, "anno_id": number}))
        rows = cloud(number, columns=3)
        lines = "".join(" ".join(f"{value:.6f}" for value in row) + "\n" for row in rows)
        _write(folder / "point_sample" / "pts-10000.txt", lines)
        _write(folder / "point_sample" / "label-10000.txt", "1\n" * len(rows))
    return root


def partnet_hdf5(root: Path) -> Path:
    for category, levels in {"Bed": (1, 3), "Clock": (1,)}.items():
        for level in levels:
            for split, n in {"train": 4, "test": 2}.items():
                data = np.stack([cloud(10 * n + row) for row in range(n)])
                parts = np.tile(np.arange(POINTS) % (level + 2), (n, 1)).astype(np.uint8)
                file = root / "sem_seg_h5" / f"{category}-{level}" / f"{split}-00.h5"
                file.parent.mkdir(parents=True, exist_ok=True)
                with h5py.File(file, "w") as opened:
                    opened["data"], opened["label_seg"] = data, parts
    return root


CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
CUBE_FACES = [
    [0, 1, 3, 2],
    [4, 6, 7, 5],
    [0, 4, 5, 1],
    [2, 3, 7, 6],
    [0, 2, 6, 4],
    [1, 5, 7, 3],
]
CUBE_TRIANGLES = [[f[0], f[i], f[i + 1]] for f in CUBE_FACES for i in (1, 2)]


def off_bytes(vertices=CUBE, faces=CUBE_TRIANGLES, quirk=False) -> bytes:
    head = f"OFF{'' if quirk else chr(10)}{len(vertices)} {len(faces)} 0\n"
    rows = "".join(" ".join(map(str, vertex)) + "\n" for vertex in np.asarray(vertices).tolist())
    rows += "".join(" ".join(map(str, [len(face), *face])) + "\n" for face in faces)
    return (head + rows).encode()


def obj_bytes(vertices=CUBE, faces=CUBE_FACES) -> bytes:
    rows = "".join(
        "v " + " ".join(map(str, vertex)) + "\n" for vertex in np.asarray(vertices).tolist()
    )
    rows += "".join("f " + " ".join(str(i + 1) for i in face) + "\n" for face in faces)
    return ("mtllib material.mtl\n" + rows).encode()


def ply_bytes(vertices=CUBE, faces=CUBE_TRIANGLES, kind="binary_little_endian") -> bytes:
    head = f"ply\nformat {kind} 1.0\ncomment made by a test\nelement vertex {len(vertices)}\n"
    head += "property float x\nproperty float y\nproperty float z\n"
    if faces is not None:
        head += f"element face {len(faces)}\nproperty list uchar int vertex_indices\n"
    head += "end_header\n"
    mark = ">" if kind == "binary_big_endian" else "<"
    body = b""
    for vertex in np.asarray(vertices).tolist():
        if kind == "ascii":
            body += (" ".join(map(str, vertex)) + "\n").encode()
        else:
            body += struct.pack(f"{mark}3f", *vertex)
    for face in faces or ():
        if kind == "ascii":
            body += (" ".join(map(str, [len(face), *face])) + "\n").encode()
        else:
            body += struct.pack(f"{mark}B{len(face)}i", len(face), *face)
    return head.encode() + body


def stl_bytes(vertices=CUBE, faces=CUBE_TRIANGLES) -> bytes:
    body = b"".join(
        struct.pack("<12fH", 0, 0, 0, *np.asarray(vertices)[face].reshape(-1), 0) for face in faces
    )
    return b"made by a test".ljust(80) + struct.pack("<I", len(faces)) + body


def glb_bytes(vertices=CUBE, faces=CUBE_TRIANGLES, nodes=None, change=None) -> bytes:
    index = np.asarray(faces, "<u4").reshape(-1)
    data = np.asarray(vertices, "<f4").tobytes() + index.tobytes()
    split = len(vertices) * 12
    scene = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": nodes or [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": len(vertices), "type": "VEC3"},
            {"bufferView": 1, "componentType": 5125, "count": len(index), "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": split},
            {"buffer": 0, "byteOffset": split, "byteLength": len(data) - split},
        ],
        "buffers": [{"byteLength": len(data)}],
    }
    if change is not None:
        change(scene)
    text = json.dumps(scene).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    chunks += struct.pack("<I4s", len(data), b"BIN\0") + data
    return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks


MESH_WRITERS = {
    "off": off_bytes,
    "obj": obj_bytes,
    "ply": ply_bytes,
    "stl": stl_bytes,
    "glb": glb_bytes,
}


def meshes(root: Path) -> Path:
    """`<class>/{train,test}`; each kind of file once."""
    for number, (kind, write) in enumerate(MESH_WRITERS.items()):
        for name in ("box", "slab"):
            for split in ("train", "test"):
                file = root / name / split / f"{name}_{number}.{kind}"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(write(CUBE * [1, 1 if name == "box" else 0.1, 1 + number]))
    return root


def clouds(root: Path) -> Path:
    """`<class>/{train,test}`; the kinds that need no extra package."""
    for name in ("blob", "stick"):
        for number, split in enumerate(("train", "test")):
            folder = root / name / split
            folder.mkdir(parents=True)
            points = cloud(number, 80) * ([1, 1, 1] if name == "blob" else [1, 0.1, 0.1])
            np.save(folder / "a.npy", points)
            np.savez_compressed(folder / "b.npz", points=points, normals=points)
            (folder / "c.ply").write_bytes(ply_bytes(points, None))
            np.savetxt(folder / "d.xyz", points)
    return root


@pytest.fixture(scope="session")
def write():
    """Writers of tiny copies: each takes an empty folder and returns what `open_source` takes."""
    return SimpleNamespace(
        **{
            layout.__name__: layout
            for layout in (
                modelnet_hdf5,
                scanobjectnn,
                shapenet55,
                modelnet_text,
                modelnet_pickle,
                few_shot,
                shapenetpart,
                shapenetpart_hdf5,
                partnet,
                partnet_hdf5,
                meshes,
                clouds,
                off_bytes,
                obj_bytes,
                ply_bytes,
                stl_bytes,
                glb_bytes,
                cloud,
                in_unit_sphere,
            )
        },
        CUBE=CUBE,
        CUBE_FACES=CUBE_FACES,
        CUBE_TRIANGLES=CUBE_TRIANGLES,
        h5=_h5,
    )
