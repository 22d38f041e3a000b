"""Every notebook runs from top to bottom."""

import json
import pathlib

import jax
import pytest

NOTEBOOKS = sorted(
  (pathlib.Path(__file__).parents[2] / "notebooks").glob("*.ipynb")
)

# The same code with fewer iterations: the values of numbers are not tested.
SHORTER = {
  "num_steps=300": "num_steps=20",
  "num_pairs=256": "num_pairs=16",
  "num_nodes=64": "num_nodes=8",
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_reports_finite_numbers(path, capsys):
  cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
  namespace, left = {}, {*SHORTER}
  for number, cell in enumerate(cells):
    if cell["cell_type"] == "code":
      assert not cell["outputs"], "commit notebooks without outputs"
      source = "".join(cell["source"])
      for long, short in SHORTER.items():
        left -= {long} if long in source else set()
        source = source.replace(long, short)
      code = compile(source, f"{path.name}:{number}", "exec")
      # As a reader runs it, without the strict settings of these tests.
      with jax.numpy_rank_promotion("allow"):
        exec(code, namespace)
  assert not left, "not in the notebook"
  printed = capsys.readouterr().out
  assert printed
  assert "nan" not in printed
