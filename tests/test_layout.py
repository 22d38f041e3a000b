"""Imports point downwards: entry points, loops, edges, pure core."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "robust_info"
STANDARD = set(sys.stdlib_module_names)

# The third-party libraries of each layer of the package, lowest first. What is
# not named here is pure core: jax, numpy and itself.
CORE = {"jax", "jaxlib", "numpy"}
EDGES = {
  "models": {"flax"},
  "data": {"tensorflow_datasets", "PIL", "sklearn"},
  "checkpoint_directory": {"orbax"},
  "checkpoints": set(),
  "writers": {"tensorboardX"},
  "figures": {"matplotlib"},
  "agreement": set(),
  "config": {"ml_collections"},
  "measurement_cache": set(),
  "leaf_manifest": set(),
  "processes": set(),
  "progress": set(),
  "samples": {"scipy"},
  "sharding": set(),
  "tables": set(),
  "workdir": set(),
}
LOOPS = {
  "memory",
  "metrics_window",
  "objectives",
  "optimizers",
  "train_setup",
  "train_state",
  "train_step",
  "training",
  "evaluation",
  "measurements",
  "report",
  "under_attack",
  "validation",
  "worst_case",
  "resolution",
  "rollback",
  "run",
  "weight_perturbation",
}
ENTRY_POINTS = {"command_line"}


def modules():
  for path in sorted(PACKAGE.rglob("*.py")):
    yield path, path.relative_to(PACKAGE).parts[0].removesuffix(".py")


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


def third_party(path):
  roots = {name.split(".")[0] for name in imports(path)}
  return roots - STANDARD - {"robust_info"}


def own(path):
  for name in imports(path):
    if name.startswith("robust_info."):
      yield name.split(".")[1]


def layer(name):
  if name in ENTRY_POINTS:
    return 3
  if name in LOOPS:
    return 2
  return 1 if name in EDGES else 0


@pytest.mark.parametrize(
  ("path", "name"), [pytest.param(*m, id=str(m[0].name)) for m in modules()]
)
def test_third_party_imports_stay_in_their_layer(path, name):
  allowed = {0: CORE, 1: CORE | EDGES.get(name, set())}.get(layer(name))
  if allowed is not None:
    assert third_party(path) <= allowed


@pytest.mark.parametrize(
  ("path", "name"), [pytest.param(*m, id=str(m[0].name)) for m in modules()]
)
def test_nothing_imports_upwards(path, name):
  assert all(layer(other) <= layer(name) for other in own(path))


def test_each_edge_library_has_one_place():
  homes = {lib: name for name, libs in EDGES.items() for lib in libs}
  strays = {
    (path.name, lib)
    for path, name in modules()
    for lib in third_party(path) & set(homes)
    if layer(name) < 2 and homes[lib] != name
  }
  assert not strays


def test_importing_the_package_is_quick_and_light():
  code = (
    "import sys, time; begin = time.process_time(); import robust_info; "
    "print(time.process_time() - begin); print(*sys.modules)"
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
  assert not loaded & heavy
  assert float(output[0]) < 2.0


def test_public_names_exist_and_are_sorted():
  import robust_info

  assert list(robust_info.__all__) == sorted(robust_info.__all__)
  for name in robust_info.__all__:
    assert hasattr(robust_info, name)


def test_no_file_is_called_utils_or_grows_past_its_limit():
  for path in [*PACKAGE.rglob("*.py"), *ROOT.glob("*.py")]:
    assert "util" not in path.stem
    assert len(path.read_text().splitlines()) <= 450, path
