import importlib.util
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2pmae.errors import DataError
from i2pmae.formats import step

from ..measures import measures, read_triangles

pytest.importorskip("cascadio")


class Part:
    """Lines of the data section."""

    def __init__(self):
        self.lines = []

    def add(self, text):
        self.lines.append(f"#{len(self.lines) + 1}={text};\n")
        return f"#{len(self.lines)}"

    def text(self):
        head = "FILE_DESCRIPTION((''),'2;1');\nFILE_NAME('','',(''),(''),'','','');\n"
        head += "FILE_SCHEMA(('AUTOMOTIVE_DESIGN'));\n"
        body = "".join(self.lines)
        return f"ISO-10303-21;\nHEADER;\n{head}ENDSEC;\nDATA;\n{body}ENDSEC;\nEND-ISO-10303-21;\n"


def numbers(values):
    return "(" + ",".join(repr(float(value)) for value in values) + ")"


@pytest.fixture(scope="module")
def box(write):
    """A box of 1 by 2 by 3 with flat faces."""
    return box_of(write, write.CUBE * [1, 2, 3])


def box_of(write, corners):
    """A solid with the faces of a cube and any corners that leave these flat."""
    part = Part()
    points = [part.add(f"CARTESIAN_POINT('',{numbers(corner)})") for corner in corners]
    faces = []
    for face in write.CUBE_FACES:
        loop = part.add(f"POLY_LOOP('',({','.join(points[i] for i in face)}))")
        bound = part.add(f"FACE_OUTER_BOUND('',{loop},.T.)")
        along, across = corners[face[1]] - corners[face[0]], corners[face[2]] - corners[face[0]]
        normal = part.add(f"DIRECTION('',{numbers(np.cross(along, across))})")
        first = part.add(f"DIRECTION('',{numbers(along)})")
        place = part.add(f"AXIS2_PLACEMENT_3D('',{points[face[0]]},{normal},{first})")
        plane = part.add(f"PLANE('',{place})")
        faces.append(part.add(f"FACE_SURFACE('',({bound}),{plane},.T.)"))
    shell = part.add(f"CLOSED_SHELL('',({','.join(faces)}))")
    solid = part.add(f"FACETED_BREP('',{shell})")
    length = part.add("( LENGTH_UNIT() NAMED_UNIT(*) SI_UNIT(.MILLI.,.METRE.) )")
    angle = part.add("( NAMED_UNIT(*) PLANE_ANGLE_UNIT() SI_UNIT($,.RADIAN.) )")
    context = part.add(
        f"( GEOMETRIC_REPRESENTATION_CONTEXT(3) GLOBAL_UNIT_ASSIGNED_CONTEXT(({length},{angle})) "
        "REPRESENTATION_CONTEXT('','') )"
    )
    shape = part.add(f"FACETED_BREP_SHAPE_REPRESENTATION('',({solid}),{context})")
    field = part.add("APPLICATION_CONTEXT('automotive design')")
    kind = part.add(f"PRODUCT_CONTEXT('',{field},'mechanical')")
    product = part.add(f"PRODUCT('box','box','',({kind}))")
    form = part.add(f"PRODUCT_DEFINITION_FORMATION('','',{product})")
    stage = part.add(f"PRODUCT_DEFINITION_CONTEXT('part definition',{field},'design')")
    made = part.add(f"PRODUCT_DEFINITION('design','',{form},{stage})")
    whole = part.add(f"PRODUCT_DEFINITION_SHAPE('','',{made})")
    part.add(f"SHAPE_DEFINITION_REPRESENTATION({whole},{shape})")
    return part.text()


@pytest.fixture
def read(tmp_path):
    def read(text, ending="step"):
        (tmp_path / f"a.{ending}").write_text(text)
        return read_triangles(tmp_path / f"a.{ending}")

    return read


@settings(max_examples=3)
@given(seed=st.integers(0, 2**31))
def test_any_box(read, write, seed):
    draw = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(draw.normal(size=(3, 3)))
    corners = write.CUBE * draw.uniform(1, 20, 3) @ turn * np.linalg.det(turn) + draw.normal(size=3)
    expected = measures(corners[np.array(write.CUBE_TRIANGLES)])
    triangles = read(box_of(write, corners)) * 1000  # in meters, as OpenCascade writes it
    assert measures(triangles) == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_a_box(read, box):
    triangles = read(box, "STP") * 1000
    assert measures(triangles) == pytest.approx([22, 0, 0, 0, 1, 2, 3, 0.5, 1, 1.5], rel=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("=PLANE(", "=PLANET(", "1 of 6 faces could not be built"),
        ("#3=", "#999=", "ended without a shape"),  # which ends the process
        ("END-ISO-10303-21", "", "is no .step file or is cut short"),
        ("ISO-10303-21;\n", "", "is no .step file"),
    ],
)
def test_damaged_files(read, box, old, new, reason, capfd):
    with pytest.raises(DataError, match=reason) as caught:
        read(box.replace(old, new, 1))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_file_that_takes_for_ever(read, box, monkeypatch):
    monkeypatch.setattr(step, "_PROGRAM", "import time; time.sleep(60)")
    monkeypatch.setattr(step, "_SECONDS", 0.5)
    started = time.monotonic()
    with pytest.raises(DataError, match="took more than 1 s"):
        read(box)
    assert time.monotonic() - started < 20


def test_without_the_package(read, box, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"need cascadio.*pip install 'i2pmae\[step\]'"):
        read(box)
