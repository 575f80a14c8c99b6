import numpy as np
import pytest

from i2pmae.datasets import open_source
from i2pmae.errors import DataError

from ..measures import area, measures, read_triangles

SQUARE = "0 0 0  1 0 0  1 1 0  0 1 0"
CONCAVE = "0 0 0 3 0 0 3 1 0 1 1 0 1 3 0 0 3 0"
VERTEX = '<input semantic="VERTEX" source="#vertices" offset="0"/>'
TRIANGLES = f'<triangles count="2">{VERTEX}<p>0 1 2 0 2 3</p></triangles>'
INSTANCE = '<instance_geometry url="#shape"/>'


def source(name, values, width, names="XYZ", array="float_array"):
    params = "".join(f'<param name="{letter}" type="float"/>' for letter in names)
    count = len(values.split())
    return (
        f'<source id="{name}"><{array} id="{name}-array" count="{count}">{values}</{array}>'
        f'<technique_common><accessor source="#{name}-array" count="{count // width}" '
        f'stride="{width}">{params}</accessor></technique_common></source>'
    )


def document(faces=TRIANGLES, nodes=f"<node>{INSTANCE}</node>", *, points=None, libraries=""):
    points = points or source("points", SQUARE, 3)
    return f"""<?xml version="1.0" encoding="utf-8"?>
<COLLADA xmlns="http://www.collada.org/2005/11/COLLADASchema" version="1.4.1">
<asset><up_axis>Z_UP</up_axis></asset><library_geometries><geometry id="shape"><mesh>{points}
<vertices id="vertices"><input semantic="POSITION" source="#points"/></vertices>
{faces}</mesh></geometry></library_geometries>{libraries}
<library_visual_scenes><visual_scene id="scene">{nodes}</visual_scene></library_visual_scenes>
<scene><instance_visual_scene url="#scene"/></scene></COLLADA>"""


@pytest.fixture
def read(tmp_path):
    def read(text):
        (tmp_path / "a.dae").write_text(text, encoding="utf-8")
        return read_triangles(tmp_path / "a.dae")

    return read


@pytest.mark.parametrize(
    "faces",
    [
        TRIANGLES,
        f'<triangles count="1">{VERTEX}<p>0 1 2</p></triangles><triangles>{VERTEX}<p>0 2 3</p>'
        "</triangles>",
        f'<triangles count="2">{VERTEX}<input semantic="NORMAL" source="#points" offset="1"/>'
        "<p>0 3 1 3 2 3\n0 3 2 3\t3 3</p></triangles>",
        f'<polylist count="1">{VERTEX}<vcount>4</vcount><p>0 1 2 3</p></polylist>',
        f'<polylist count="3">{VERTEX}<vcount>3 2 3</vcount><p>0 1 2 1 0 0 2 3</p></polylist>',
        f'<polygons count="1">{VERTEX}<p>0 1 2 3</p></polygons>',
        f'<tristrips count="1">{VERTEX}<p>0 1 3 2</p></tristrips>',
        f'<trifans count="1">{VERTEX}<p>0 1 2 3</p></trifans>',
        f'<lines count="1">{VERTEX}<p>0 1</p></lines>{TRIANGLES}',
    ],
)
def test_faces_of_every_kind(read, faces):
    assert measures(read(document(faces))) == pytest.approx([1, 0, 0, 0, 1, 1, 0, 0.5, 0.5, 0])


@pytest.mark.parametrize("kind", ["polylist", "polygons"])
def test_concave_faces(read, kind):
    counts = "<vcount>6</vcount>" if kind == "polylist" else ""
    faces = f"<{kind}>{VERTEX}{counts}<p>2 3 4 5 0 1</p></{kind}>"
    assert area(read(document(faces, points=source("points", CONCAVE, 3)))) == pytest.approx(5)


def test_points_among_other_values(read):
    values = "9 0 0 0  9 0 1 0  9 1 1 0  9 1 0 0"
    points = source("points", values, 4, "WYXZ")
    assert measures(read(document(points=points)))[:7] == pytest.approx([1, 0, 0, 0, 1, 1, 0])


def test_scenes_are_put_together(read):
    nodes = f"""<node><translate>1 2 3</translate><rotate>0 0 1 90</rotate><scale>2 2 2</scale>
    <node><matrix>1 0 0 0  0 3 0 0  0 0 1 1  0 0 0 1</matrix>{INSTANCE}</node></node>
    <node><instance_node url="#part"/></node>"""
    library = (
        f'<library_nodes><node id="part"><scale>9 1 1</scale>{INSTANCE}</node></library_nodes>'
    )
    triangles = read(document(nodes=nodes, libraries=library))
    assert measures(triangles)[:7] == pytest.approx([12 + 9, -5, 0, 0, 9, 4, 5])
    camera = f"<node><lookat>0 0 5 0 0 0 0 1 0</lookat>{INSTANCE}</node>"
    assert measures(read(document(nodes=camera)))[1:7] == pytest.approx([0, 0, 5, 1, 1, 5])


def test_geometries_without_a_scene(read):
    text = document().replace("visual_scene", "other").replace("library_other", "library")
    assert len(read(text)) == 2


def skin(joints="Name_array"):
    weights = (
        source("joints", "left right", 1, ["JOINT"], joints)
        + source(
            "inverse", "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1 1 0 0 -3 0 1 0 0 0 0 1 0 0 0 0 1", 16, ""
        )
        + source("weights", "1 0.5", 1, ["WEIGHT"])
    )
    return f"""<library_controllers><controller id="held"><skin source="#shape">{weights}
    <bind_shape_matrix>1 0 0 0 0 1 0 0 0 0 1 7 0 0 0 1</bind_shape_matrix>
    <joints><input semantic="JOINT" source="#joints"/>
    <input semantic="INV_BIND_MATRIX" source="#inverse"/></joints><vertex_weights count="4">
    <input semantic="JOINT" source="#joints" offset="0"/>
    <input semantic="WEIGHT" source="#weights" offset="1"/>
    <vcount>1 1 2 1</vcount><v>0 0  1 1  1 1 1 1  0 0</v></vertex_weights></skin></controller>
    </library_controllers>"""


@pytest.mark.parametrize(("joints", "key"), [("Name_array", "sid"), ("IDREF_array", "id")])
def test_skins_stand_in_rest_pose(read, joints, key):
    nodes = f"""<node><scale>9 9 9</scale><instance_controller url="#held"/></node>
    <node {key}="left"/><node><translate>5 0 0</translate><node {key}="right"/></node>"""
    triangles = read(document(nodes=nodes, libraries=skin(joints)))
    assert measures(triangles)[:7] == pytest.approx([3, 0, 0, 7, 3, 1, 7])
    with pytest.raises(DataError, match="'right'"):
        read(document(nodes=nodes.replace('"right"', '"up"'), libraries=skin(joints)))


def test_figures_whose_joints_are_called_alike(read):
    nodes = "".join(
        f"""<node id="f{x}"><translate>{x} 0 0</translate><node sid="left"/><node sid="right">
        <translate>3 0 0</translate></node></node><node><instance_controller url="#held">
        <skeleton> #f{x} </skeleton></instance_controller></node>"""
        for x in (10, 20)
    )
    triangles = read(document(nodes=nodes, libraries=skin()))
    assert measures(triangles)[:7] == pytest.approx([2, 10, 0, 7, 21, 1, 7])


def test_the_axis_that_points_up_is_told(tmp_path):
    (tmp_path / "a.dae").write_text(document())
    (note,) = (note for note in open_source(tmp_path).notes if "points up" in note)
    assert note == "files say that z points up: --up z turns the shapes"
    assert not any("points up" in note for note in open_source(tmp_path, up="z").notes)
    (tmp_path / "a.dae").write_text(document().replace("Z_UP", "Y_UP"))
    assert not any("points up" in note for note in open_source(tmp_path).notes)


def test_morph_targets(read):
    def morph(weight):
        inputs = '<input semantic="MORPH_TARGET" source="#targets"/>'
        inputs += '<input semantic="MORPH_WEIGHT" source="#shares"/>'
        held = source("shares", weight, 1, "")
        return (
            '<library_controllers><controller id="held"><morph source="#shape">'
            f"{held}<targets>{inputs}</targets></morph></controller></library_controllers>"
        )

    nodes = '<node><scale>2 2 2</scale><instance_controller url="#held"/></node>'
    assert area(read(document(nodes=nodes, libraries=morph("0")))) == pytest.approx(4)
    with pytest.raises(DataError, match="morph targets with weights"):
        read(document(nodes=nodes, libraries=morph("0.5")))


def test_numbers_in_parts(read, monkeypatch):
    monkeypatch.setattr("i2pmae.formats.words._CHUNK", 7)
    assert len(read(document())) == 2


HOLED = "<polygons><ph><p>0 1 2 3</p><h>0 1 2</h></ph></polygons>".replace("<ph>", VERTEX + "<ph>")
LOOP = '<node id="a"><instance_node url="#a"/></node>'
BOMB = '<!DOCTYPE x [<!ENTITY a "0 1 2 0 2 3">]>'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (document(HOLED), "polygons with holes"),
        (document(nodes=f"<node><skew>45 0 1 0 1 0 0</skew>{INSTANCE}</node>"), "<skew>"),
        (document(nodes=LOOP), "more than 100000 nodes"),
        (document(nodes='<node><instance_geometry url="#none"/></node>'), "'#none' is not there"),
        (document(nodes='<node><instance_geometry url="b.dae#c"/></node>'), "another file"),
        (document().replace("<mesh>", "<spline>").replace("</mesh>", "</spline>"), "<spline>"),
        (document(f"<triangles>{VERTEX}<p>0 1 2 0 2 4</p></triangles>"), "names vertex 4"),
        (document(f"<triangles>{VERTEX}<p>0 1 2 0 2 -1</p></triangles>"), "names vertex -1"),
        (document(f"<triangles>{VERTEX}<p>0 1 2 0</p></triangles>"), "cannot be read"),
        (document(f"<odd>{VERTEX}<p>0 1 2</p></odd>"), "<odd> is not read"),
        (
            document(f"<polylist>{VERTEX}<vcount>4</vcount><p>0 1 2</p></polylist>"),
            "another number",
        ),
        (document(points=source("points", "0 0 0 1 x 0", 3)), "could not convert"),
        (document().replace('count="4"', 'count="5"'), "fewer values than it promises"),
        (document()[:-30], "cannot be read"),
        (document().replace("COLLADA", "other"), "no COLLADA file"),
        (document(nodes=""), "has no faces"),
        (BOMB + document().partition("?>")[2].replace("0 1 2 0 2 3", "&a;"), "declares entities"),
    ],
)
def test_what_is_not_read_is_named(read, text, reason):
    with pytest.raises(DataError, match=reason) as caught:
        read(text)
    assert "\n" not in str(caught.value)


def test_copies_of_parts_are_counted(read, monkeypatch):
    monkeypatch.setattr("i2pmae.formats.polygons.MOST_FACES", 100)
    with pytest.raises(DataError, match="more than 100 faces"):
        read(document(nodes=f"<node>{INSTANCE}</node>" * 51))
    assert np.shape(read(document(nodes=f"<node>{INSTANCE}</node>" * 50))) == (100, 3, 3)
