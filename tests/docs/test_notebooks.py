"""The notebooks of the documentation: what they hold, and that they run."""

import ast
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SMALL = {  # in place of the cell of parameters
    "embed-and-search": "DATA, LIMIT, POINTS = 'procedural', 24, 256",
    "store-to-pictures": "DATA, LIMIT = 'procedural', 24\n"
    "IMAGE_MODEL = {'name': 'timm:test_vit', 'pretrained': 'random', 'image_size': 64}",
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_install_first_and_hold_no_outputs(path):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    title, install, *cells = book.cells
    assert title.cell_type == "markdown"
    assert "%pip install -q" in install.source
    assert 'REPOSITORY = ""' in install.source  # no made-up address
    assert [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    for cell in cells:
        if cell.cell_type == "code":
            assert ast.parse(cell.source)
            assert (cell.outputs, cell.execution_count) == ([], None)


def test_every_notebook_is_on_the_page():
    assert {path.stem for path in NOTEBOOKS} == SMALL.keys()
    page = (FOLDER.parent / "notebooks.md").read_text()
    assert all(f"notebooks/{name}.ipynb" in page for name in SMALL)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Jupyter's packages
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path):
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = SMALL[path.stem]
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(book, timeout=900, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
