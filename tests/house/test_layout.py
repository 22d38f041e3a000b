"""Layout of the package: imports, places of libraries, lengths of files."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "robust_info"
STANDARD = set(sys.stdlib_module_names)

# Packages of one row do not import each other; each may import the rows above.
ROWS = (
  ("_xla", "_validate", "config"),
  ("adapters", "information", "runtime", "models"),
  ("fisher", "data"),
  ("lenses", "attacks"),
  ("objectives", "evaluation", "plots"),
  ("training",),
  ("report",),
  ("study",),
)
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}
# Libraries of a package, in addition to jax and numpy; with `/file`: only in
# this file.
LIBRARIES = {
  "adapters/pytorch/": {"torch", "torchax"},
  "config": {"ml_collections"},
  "models": {"flax"},
  "data": {"tensorflow_datasets", "PIL", "sklearn"},
  "data/parquet": {"pyarrow"},
  "objectives": {"optax"},
  "evaluation/sample_statistics": {"scipy"},
  "training": {"flax", "optax"},
  "training/checkpoint_directory": {"orbax"},
  "training/metrics_log": {"tensorboardX"},
  "plots": {"matplotlib"},
  "runtime/command_line": {"absl", "ml_collections"},
  "runtime/help_text": {"absl"},
  "study": {"scipy"},
  "study/answers": {"statsmodels"},
  "study/jobs": {"submitit"},
  "study/plan": {"ml_collections"},
  "study/questions": {"matplotlib"},
  "report/page/__init__": {"jinja2", "markupsafe"},
  "report/page/pixels": {"PIL"},
  "report/page/vectors": {"markupsafe"},
}
CORE = {"jax", "jaxlib", "jaxtyping", "numpy"}
# Functions of more than 60 lines of code, each with its reason.
LONG = {
  "attacks/_apgd.method": "one iteration of the published attack, in order",
  "attacks/_apgd.step": "see method, which holds it",
  "attacks/_fab.method": "one iteration of the published attack, in order",
  "attacks/_square.method": "one iteration of the published attack, in order",
  "attacks/ascent.ascend": "the loop of PGD with its bookkeeping",
  "attacks/autoattack/ensemble._evaluate": "the order of the ensemble",
  "attacks/autoattack/ensemble.auto_attack": "checks of fifteen arguments",
  "attacks/autoattack/pool.run": "one loop whose parts share its counters",
  "attacks/methods._iterated": "the loop of every method in one program",
  "attacks/sanity/attack_checks.run": "attacks in order, then their accuracies",
  "evaluation/metrics/lenses.describe": "one entry of a report",
  "evaluation/metrics/robustness.measure": "one entry of a report",
  "information/stats._block_stats": "one block, summed class by class",
  "models/__init__.create": "one branch per architecture",
  "training/step.make_train_step": "the step, which closes over its options",
}
LONG_FILES = {}


def modules():
  found = []
  for path in sorted(PACKAGE.rglob("*.py")):
    inside = path.relative_to(PACKAGE)
    if len(inside.parts) > 1 or inside.stem != "__init__":
      room = inside.parts[0].removesuffix(".py")
      found.append(pytest.param(path, room, id=str(inside)))
  return found


def imports(path):
  """Names of the imported modules: third-party roots, our own in full."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      if node.module == "robust_info":
        yield from (f"robust_info.{alias.name}" for alias in node.names)
      else:
        yield node.module


@pytest.mark.parametrize(("path", "room"), modules())
def test_third_party_libraries_stay_in_their_room(path, room):
  place = path.relative_to(PACKAGE).with_suffix("").as_posix()
  allowed = CORE.union(
    *(libs for home, libs in LIBRARIES.items() if place.startswith(home))
  )
  roots = {name.split(".")[0] for name in imports(path)}
  assert roots - STANDARD - {"robust_info"} <= allowed, room


@pytest.mark.parametrize(("path", "room"), modules())
def test_rooms_import_only_lower_ones(path, room):
  for name in imports(path):
    if name.startswith("robust_info."):
      other = name.split(".")[1]
      assert other == room or RANK[other] < RANK[room], name


def test_modules_form_no_circle():
  """Checks cycles within packages; the test before excludes others."""
  names = {}
  for path in PACKAGE.rglob("*.py"):
    parts = path.relative_to(ROOT).with_suffix("").parts
    names[".".join(parts).removesuffix(".__init__")] = path
  arrows = {}
  for name, path in names.items():
    arrows[name] = set()
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.ImportFrom):
        for alias in node.names:
          whole = f"{node.module}.{alias.name}"
          found = whole if whole in names else node.module
          if found in names and found != name:
            arrows[name].add(found)
  done, under_way = set(), []

  def visit(name):
    assert name not in under_way, " -> ".join([*under_way, name])
    if name in done:
      return
    under_way.append(name)
    for other in sorted(arrows[name]):
      visit(other)
    under_way.pop()
    done.add(name)

  for name in sorted(names):
    visit(name)


def test_package_has_at_most_twenty_entries():
  # A folder that Python left behind holds no source.
  entries = {
    path.name
    for path in PACKAGE.iterdir()
    if path.suffix == ".py" or any(path.glob("*.py"))
  }
  assert {name.removesuffix(".py") for name in entries} == {
    "__init__", *RANK
  }  # fmt: skip
  assert len(entries) <= 20


def code_lines(node):
  """Number of lines of a function without its docstring."""
  text = ast.get_docstring(node, clean=False)
  return (
    node.end_lineno - node.lineno + 1 - (text or "").count("\n") - bool(text)
  )


def test_functions_and_files_are_short_or_give_a_reason():
  long, long_files = set(), set()
  for path in PACKAGE.rglob("*.py"):
    place = path.relative_to(PACKAGE).with_suffix("").as_posix()
    text = path.read_text()
    assert "util" not in path.stem
    if len(text.splitlines()) > 400:
      long_files.add(place)
    for node in ast.walk(ast.parse(text)):
      if isinstance(node, ast.FunctionDef) and code_lines(node) > 60:
        long.add(f"{place}.{node.name}")
  assert long == set(LONG)
  assert long_files == set(LONG_FILES)


def test_imports_are_quick_and_light_and_leave_pyplot_alone():
  code = (
    "import sys, time; begin = time.process_time(); import robust_info; "
    "print(time.process_time() - begin); print(*sys.modules); "
    # Figures are drawn beside those of the user, whose pyplot has a state.
    "from robust_info.report import figures; "
    "assert 'matplotlib.pyplot' not in sys.modules"
  )
  output = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    check=True,
    cwd=ROOT,
  ).stdout.splitlines()
  loaded = {name.split(".")[0] for name in output[1].split()}
  heavy = {"flax", "orbax", "tensorflow_datasets", "matplotlib", "optax"}
  heavy |= {"tensorflow", "tensorboardX", "ml_collections", "sklearn", "PIL"}
  heavy |= {"beartype", "jinja2"}
  assert not loaded & heavy
  assert float(output[0]) < 2.0


def test_public_names_exist_and_are_sorted():
  import robust_info

  assert list(robust_info.__all__) == sorted(robust_info.__all__)
  for name in robust_info.__all__:
    assert hasattr(robust_info, name)
