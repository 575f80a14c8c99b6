"""Surfaces of solids in `.step` files, through OpenCascade (cascadio, extra `step`).

OpenCascade ends the process on some damaged files, so it runs in one of its own.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

from i2pmae.errors import DataError
from i2pmae.formats.files import read_bytes
from i2pmae.formats.gltf import parse_gltf
from i2pmae.formats.polygons import Mesh

_REMEDY = "Export it again, or as a mesh."
_SECONDS = 60.0
_BYTES_A_SECOND = 50_000  # that a file of many parts may take longer
_MOST_BYTES = 1 << 31  # of memory, and as much again as twenty times the file
_MOST_LOST = 0.01  # share of faces that may be too narrow to have a surface
_FACE = re.compile(rb"\b(?:ADVANCED_FACE|FACE_SURFACE)\s*\(")
# Chords leave circles by 0.1 % of their radius. What OpenCascade prints must not get between.
_PROGRAM = """
import os, sys
import cascadio
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
except (ImportError, ValueError, OSError):
    pass
out = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
out.write(cascadio.to_glb_bytes(sys.stdin.buffer.read(), tol_linear=0.01, tol_angular=0.1,
          tol_relative=True, merge_primitives=False, use_parallel=False))
out.close()
"""


def read_step(file: Path) -> Mesh:
    """All solids and surfaces of a file, as fine triangles.

    Raises:
        DataError: if the file is damaged, or too large for the time or memory there is.
    """
    if importlib.util.find_spec("cascadio") is None:
        raise DataError(
            f"{file.suffix} files need cascadio, which is not installed. Add it: pip install "
            "'i2pmae[step]'."
        )
    data = read_bytes(file)
    if not data.lstrip().startswith(b"ISO-10303-21") or b"END-ISO-10303-21" not in data[-4096:]:
        raise DataError(f"{file} is no .step file or is cut short. {_REMEDY}")
    seconds = _SECONDS + len(data) / _BYTES_A_SECOND
    limit = _MOST_BYTES + 20 * len(data)
    command = [sys.executable, "-P", "-c", _PROGRAM, str(limit)]
    try:
        done = subprocess.run(  # noqa: S603  this Python and the text above
            command, input=data, capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{file} took more than {seconds:.0f} s. Simplify it.") from error
    if done.returncode or not done.stdout:
        raise DataError(f"{file} cannot be read: OpenCascade ended without a shape. {_REMEDY}")
    n_faces, n_built = len(_FACE.findall(data)), _n_primitives(done.stdout)
    if n_built < (1 - _MOST_LOST) * n_faces:
        raise DataError(
            f"{file}: {n_faces - n_built} of {n_faces} faces could not be built. {_REMEDY}"
        )
    return parse_gltf(done.stdout, file)


def _n_primitives(glb: bytes) -> int:
    """How many faces OpenCascade has built: each is a primitive."""
    scene = json.loads(glb[20 : 20 + int.from_bytes(glb[12:16], "little")])
    return sum(len(mesh["primitives"]) for mesh in scene.get("meshes", []))
