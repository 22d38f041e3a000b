"""Every notebook runs from top to bottom."""

import json
import pathlib

import jax
import pytest

NOTEBOOKS = sorted(
  (pathlib.Path(__file__).parent.parent / "notebooks").glob("*.ipynb")
)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_reports_finite_numbers(path, capsys):
  cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
  namespace = {}
  for number, cell in enumerate(cells):
    if cell["cell_type"] == "code":
      assert not cell["outputs"], "commit notebooks without outputs"
      code = compile("".join(cell["source"]), f"{path.name}:{number}", "exec")
      # As a reader runs it: without the strictness of these tests.
      with jax.numpy_rank_promotion("allow"):
        exec(code, namespace)
  printed = capsys.readouterr().out
  assert printed
  assert "nan" not in printed
