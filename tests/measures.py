"""What a surface is, whatever its triangulation: area, box, center."""

import numpy as np

from i2pmae.datasets.meshes import read_mesh


def read_triangles(file):
    """(F, 3 corners, 3) of a file."""
    vertices, faces = read_mesh(file)
    return vertices[faces].astype(float)


def areas(triangles):
    edges = triangles[:, 1:] - triangles[:, :1]
    return np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) / 2


def area(triangles):
    return float(areas(triangles).sum())


def measures(triangles):
    """Area, lowest and highest corner, and center of area, in one vector."""
    triangles = np.asarray(triangles, float)
    weights = areas(triangles)
    center = (weights[:, None] * triangles.mean(axis=1)).sum(axis=0) / weights.sum()
    box = triangles[weights > 0]
    return np.concatenate([[weights.sum()], box.min(axis=(0, 1)), box.max(axis=(0, 1)), center])
