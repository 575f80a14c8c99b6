import zipfile

import numpy as np
import pytest
import trimesh

from i2pmae.errors import DataError

from ..measures import area, measures, read_triangles

CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
PRODUCTION = "http://schemas.microsoft.com/3dmanufacturing/production/2015/06"
MAIN = "3D/3dmodel.model"
BUILD = '<build><item objectid="1"/></build>'


def mesh(number, write, scale=1):
    vertices = "".join(
        f'<vertex x="{x}" y="{y}" z="{z}"/>' for x, y, z in write.CUBE * [1, 2, 3] * scale
    )
    faces = "".join(f'<triangle v1="{a}" v2="{b}" v3="{c}"/>' for a, b, c in write.CUBE_TRIANGLES)
    return (
        f'<object id="{number}" type="model"><mesh><vertices>{vertices}</vertices>'
        f"<triangles>{faces}</triangles></mesh></object>"
    )


def model(objects, build=BUILD, more=""):
    return (
        f'<?xml version="1.0"?><model unit="millimeter" xmlns="{CORE}" xmlns:p="{PRODUCTION}" '
        f"{more}><resources>{objects}</resources>{build}</model>"
    )


@pytest.fixture
def read(tmp_path):
    def read(files):
        files = {MAIN: files} if isinstance(files, str) else files
        with zipfile.ZipFile(tmp_path / "a.3mf", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in files.items():
                archive.writestr(name, text)
        return read_triangles(tmp_path / "a.3mf")

    return read


BOX = pytest.approx([22, 0, 0, 0, 1, 2, 3, 0.5, 1, 1.5])


def test_a_box(read, write):
    assert measures(read(model(mesh(1, write)))) == BOX
    assert measures(read({"3d/3DModel.model": model(mesh(1, write))})) == BOX


def test_only_what_is_built(read, write):
    assert measures(read(model(mesh(1, write) + mesh(2, write, 9)))) == BOX


def test_items_and_components_are_placed(read, write):
    objects = mesh(1, write) + (
        '<object id="2"><components><component objectid="1" transform="2 0 0 0 2 0 0 0 2 0 0 0"/>'
        '<component objectid="1" transform="0 1 0 -1 0 0 0 0 1 0 0 10"/></components></object>'
    )
    build = '<build><item objectid="2" transform="1 0 0 0 1 0 0 0 1 0 0 100"/></build>'
    triangles = read(model(objects, build))
    assert measures(triangles)[:7] == pytest.approx([88 + 22, -2, 0, 100, 2, 4, 113])


def test_parts_in_other_files(read, write):
    far = '<object id="5"><components><component objectid="1" p:path="/3D/Parts/a.model"/>'
    far += "</components></object>"
    build = '<build><item objectid="5"/><item objectid="1" p:path="/3D/Parts/a.model"/></build>'
    files = {
        "_rels/.rels": '<Relationships><Relationship Target="/3D/x.model" Id="a" '
        'Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/></Relationships>',
        "3D/x.model": model(far, build, 'requiredextensions="p"'),
        "3D/Parts/a.model": model(mesh(1, write), ""),
    }
    assert area(read(files)) == pytest.approx(44)
    del files["3D/Parts/a.model"]
    with pytest.raises(DataError, match=r"'3d/parts/a.model' is not in it"):
        read(files)


def test_elements_of_extensions_are_none_of_the_mesh(read, write):
    slices = (
        '<s:slicestack id="7" zbottom="0"><s:slice ztop="1"><s:vertices><s:vertex x="0" y="0"/>'
        '<s:vertex x="9" y="0"/></s:vertices><s:polygon startv="0"><s:segment v2="1"/></s:polygon>'
        "</s:slice></s:slicestack>"
    )
    text = model(slices + mesh(1, write), more='xmlns:s="http://a/slice/2015/07"')
    assert measures(read(text)) == BOX
    for tag in ("model", "object", "mesh", "vertices", "vertex", "triangles", "triangle", "item"):
        text = text.replace(f"<{tag} ", f"<c:{tag} ").replace(f"<{tag}>", f"<c:{tag}>")
        text = text.replace(f"</{tag}>", f"</c:{tag}>")
    assert measures(read(text.replace("xmlns=", "xmlns:c="))) == BOX


LOOP = '<object id="1"><components><component objectid="1"/></components></object>'


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace('v1="0"', 'v1="8"', 1), "names vertex 8"),
        (lambda text: text.replace('v1="0"', 'v1="-1"', 1), "names vertex -1"),
        (lambda text: text.replace('x="0.0"', 'x="u"', 1), "could not convert"),
        (lambda text: text.replace('x="0.0"', 'x="nan"', 1), "not finite"),
        (lambda text: text.replace('objectid="1"', 'objectid="3"'), "object '3' is not in"),
        (lambda text: text.replace("<vertices>", "<beamlattice/><vertices>"), "<beamlattice>"),
        (
            lambda text: text.replace("<model ", '<model requiredextensions="b" xmlns:b="urn:x" '),
            "x",
        ),
        (lambda text: text.replace("<model ", "<!DOCTYPE a [<!ENTITY b 'c'>]><model "), "entities"),
        (lambda text: text[:-9], "cannot be read"),
        (lambda _: model(LOOP), "more than 100000 parts"),
        (lambda _: model("", "<build/>"), "has no faces"),
        (lambda _: model("") + " " * 110_000_000, "it is damaged or malicious"),
    ],
)
def test_what_is_not_read_is_named(read, write, change, reason):
    with pytest.raises(DataError, match=reason) as caught:
        read(change(model(mesh(1, write))))
    assert "\n" not in str(caught.value)


def test_archives_that_are_none(tmp_path):
    (tmp_path / "a.3mf").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(DataError, match=r"a.3mf cannot be read: .*zip"):
        read_triangles(tmp_path / "a.3mf")


def test_what_another_program_writes(tmp_path):
    scene = trimesh.Scene()
    for seed in range(3):
        place = trimesh.transformations.random_rotation_matrix(np.full(3, 0.2 + seed / 4))
        place[:3, 3] = seed
        scene.add_geometry(trimesh.creation.icosphere(seed), transform=place)
    (tmp_path / "a.3mf").write_bytes(scene.export(file_type="3mf"))
    expected = pytest.approx(measures(scene.to_mesh().triangles), rel=1e-5)
    assert measures(read_triangles(tmp_path / "a.3mf")) == expected
