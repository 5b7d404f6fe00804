"""Every notebook runs from top to bottom, at a small budget."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SMALLER = {
    '"train_size": 2000, "test_size": 200': '"train_size": 200, "test_size": 20',
    "EPOCHS = 2": "EPOCHS = 1",
    "noises=(0.1, 0.5)": "noises=(0.1,)",
    "train_size=100": "train_size=20",
    "test_size=50": "test_size=10",
    "STEPS = 400": "STEPS = 40",
    "EPOCHS, SHAPE = 60, (72, 60)": "EPOCHS, SHAPE = 4, (16, 14)",
    "SIZE, BUDGETS = 14, (10, 50, 250)": "SIZE, BUDGETS = 7, (10, 50)",
    '"neumann", "anderson", "conjugate_gradient", "gmres", "unrolled"': '"gmres"',
    "POINTS, BLOCK = 8, 10": "POINTS, BLOCK = 2, 2",
    '    "mrbo": algorithms.mrbo(posed.problem, adam, adjoint_terms=20),\n': "",
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the kernel's sockets are not ours
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_says_what_it_should(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit it without outputs"
    for cell in notebook.cells:
        for large, small in SMALLER.items():
            cell.source = cell.source.replace(large, small)
    NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": path.parents[1]}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    said = "".join(output.get("text", "") for output in outputs)
    assert any(result in said for result in ("test loss", "SNR", "relative error"))
