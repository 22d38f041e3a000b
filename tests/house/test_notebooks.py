"""Every notebook runs from top to bottom, and is committed with its results."""

import ast
import base64
import configparser
import json
import pathlib
import re
import struct

import jax
import matplotlib.figure
import pytest

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# The same code with fewer iterations: the values of numbers are not tested.
SHORTER = {
  "quickstart": {
    "num_steps=300": "num_steps=20",
    "num_pairs=400": "num_pairs=16",
    "num_nodes=32": "num_nodes=8",
  },
  "paper": {
    "times=(300,)": "times=(20,)",
    "times = (1, 3, 10, 30, 100, 200, 300)": "times = (1, 10)",
    "num_pairs=400": "num_pairs=16",
    "num_nodes=32": "num_nodes=8",
    "(4, 16, 64, 256)": "(4, 16)",
    "range(3)": "range(2)",
  },
  "attacks": {
    "num_steps=300": "num_steps=20",
    "num_steps=100": "num_steps=10",
    "slice(0, 300)": "slice(0, 50)",
    "num_queries=5000": 'num_queries=50, attacks=("apgd-ce", "square")',
  },
}
COLAB = "https://colab.research.google.com/"
MOST_BYTES = 400_000


def cells_of(path, kind="code"):
  cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
  found = [cell for cell in cells if cell["cell_type"] == kind]
  return [
    ("".join(cell["source"]), cell.get("outputs"), cell["metadata"])
    for cell in found
  ]


def run_cell(source, name, namespace):
  """Runs a cell; returns its last line, as a notebook shows it."""
  tree = ast.parse(source)
  last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
  exec(compile(tree, name, "exec"), namespace)
  if last is None:
    return None
  return eval(compile(ast.Expression(last.value), name, "eval"), namespace)


@pytest.mark.filterwarnings(
  # A network that trained for a moment may be attacked with few steps.
  "default::robust_info.attacks.AttackWarning"
)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_reports_finite_numbers(path, capsys):
  namespace, drawn = {}, 0
  shorter = SHORTER[path.stem]
  left = {*shorter}
  for number, (source, _, metadata) in enumerate(cells_of(path)):
    if "install" in metadata.get("tags", ()):
      continue
    for long, short in shorter.items():
      left -= {long} if long in source else set()
      source = source.replace(long, short)
    # As a reader runs it, without the strict settings of these tests.
    with jax.numpy_rank_promotion("allow"):
      shown = run_cell(source, f"{path.name}:{number}", namespace)
    if isinstance(shown, matplotlib.figure.Figure):
      assert shown._repr_png_()[0].startswith(b"\x89PNG")
      drawn += 1
  assert not left, "not in the notebook"
  printed = capsys.readouterr().out
  assert printed
  assert "nan" not in printed
  assert drawn == sum(
    "image/png" in output.get("data", {})
    for _, outputs, _ in cells_of(path)
    for output in outputs
  )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_are_of_one_run_and_of_no_machine(path):
  assert path.stat().st_size < MOST_BYTES
  text = path.read_text(encoding="utf-8")
  assert not re.search(r"(?<![\w.])/(tmp|home|root|usr|work|Users)/", text)
  cells = json.loads(text)["cells"]
  counts = [c["execution_count"] for c in cells if c["cell_type"] == "code"]
  assert counts == [*range(1, len(counts) + 1)]
  figures = 0
  for _, outputs, metadata in cells_of(path):
    assert metadata.keys() <= {"tags"}
    for output in outputs:
      assert output["output_type"] in ("stream", "execute_result")
      assert output.get("name", "stdout") == "stdout"
      if png := output.get("data", {}).get("image/png"):
        figures += 1
        width, _ = struct.unpack(">2I", base64.b64decode(png)[16:24])
        assert width < 2000
  assert figures


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opens_in_colab_and_installs_itself_once(path):
  first, _, _ = cells_of(path, "markdown")[0]
  assert "**After five minutes you have**" in first
  packaging = configparser.ConfigParser(interpolation=None)
  packaging.read(ROOT / "setup.cfg", encoding="utf-8")
  # Colab opens notebooks of public repositories by their address.
  target, url = COLAB, packaging["metadata"].get("url", "")
  if "//github.com/" in url:
    repository = url.partition("//github.com/")[2].strip("/")
    target += f"github/{repository}/blob/main/notebooks/{path.name}"
  assert f"({COLAB}assets/colab-badge.svg)]({target})" in first
  [install] = [
    source
    for source, _, metadata in cells_of(path)
    if "install" in metadata.get("tags", ())
  ]
  assert '%pip install --quiet "robust-info[plots]" scikit-learn' in install
  for source, _, _ in cells_of(path, "markdown"):
    for link in re.findall(r"\]\(([^)#\s]+)", source):
      assert "://" in link or (path.parent / link).exists(), link
