"""Names on the pages of the documentation exist, and numbers agree."""

import importlib
import inspect
import os
import pathlib
import re
import subprocess
import sys

import pytest

from robust_info import report
from robust_info.report import table

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "robust_info"
PAGES = [
  *(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING")),
  *sorted(DOCS.rglob("*.md")),
]
REFERENCE = sorted((DOCS / "reference").glob("*.md"))


def entries(text):
  """Modules of a page of the reference, with their members; none means all."""
  for name, options in re.findall(
    r"^::: (\S+)((?:\n    .*|\n      .*)*)", text, re.M
  ):
    inline = re.search(r"members: \[(.*)\]", options)
    members = inline[1].split(", ") if inline else []
    yield name, members or re.findall(r"^        - (\w+)$", options, re.M)


@pytest.mark.parametrize("path", REFERENCE, ids=lambda path: path.stem)
def test_pages_name_existing_modules_and_members(path):
  modules = list(entries(path.read_text()))
  assert modules
  for name, members in modules:
    module = importlib.import_module(name)
    for member in members:
      found = getattr(module, member)
      if inspect.isroutine(found) or inspect.isclass(found):
        assert found.__doc__, member


def test_the_reference_has_every_public_name():
  shown = [e for path in REFERENCE for e in entries(path.read_text())]
  listed = {(name, member) for name, members in shown for member in members}
  whole = {name for name, members in shown if not members}

  def is_shown(package, name):
    found = getattr(package, name)
    # Constants have no home, so that the module that lists them is theirs.
    home = getattr(found, "__module__", None)
    return (
      inspect.ismodule(found)
      or home in whole
      or any(
        member == name
        and getattr(importlib.import_module(module), name) is found
        for module, member in listed
      )
    )

  packages = [
    "robust_info",
    *(
      f"robust_info.{path.parent.relative_to(PACKAGE).as_posix()}"
      for path in sorted(PACKAGE.rglob("__init__.py"))
      if path.parent != PACKAGE
    ),
  ]
  missing = [
    f"{package.__name__}.{name}"
    for package in map(
      importlib.import_module, (p.replace("/", ".") for p in packages)
    )
    for name in getattr(package, "__all__", [])
    if not name.startswith("_") and not is_shown(package, name)
  ]
  assert not missing


def anchors(page):
  """Fragments of headings of which MkDocs and GitHub make the same."""
  text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.DOTALL)
  found = set()
  for heading in re.findall(r"^#+ (.*)$", text, re.M):
    words = re.sub(r"[^\w\s-]", "", heading).strip().lower()
    fragment = words.replace(" ", "-")
    if fragment == re.sub(r"[-\s]+", "-", words):
      found.add(fragment)
  return found


def test_links_and_anchors_of_pages_lead_somewhere():
  for page in PAGES:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
      path, _, fragment = link.partition("#")
      if "://" in path or path.startswith("mailto:"):
        continue
      target = (page.parent / path).resolve() if path else page
      assert target.exists(), f"{page}: {link}"
      if fragment:
        assert fragment in anchors(target), f"{page}: {link}"


def test_the_site_lists_every_page_once():
  listed = re.findall(
    r"^ *- .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M
  )
  pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
  assert sorted(listed) == sorted(pages)


def test_the_site_builds_without_a_warning(tmp_path):
  pytest.importorskip("mkdocs")
  command = "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir"
  result = subprocess.run(
    [sys.executable, *command, str(tmp_path)],
    cwd=ROOT,
    # A word of the authors of mkdocs-material, no warning of ours.
    env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  for page in DOCS.rglob("*.md"):
    assert (tmp_path / page.relative_to(DOCS).with_suffix(".html")).exists()
  # Formulas are drawn, not left to a script of another site.
  assert "<svg" in (tmp_path / "theory.html").read_text()


def test_pages_load_nothing_from_other_sites():
  config = (ROOT / "mkdocs.yml").read_text()
  assert "\n  font: false\n" in config
  assert not re.search(r"https?:", config)
  for page in DOCS.rglob("*.md"):
    loaded = r"!\[[^\]]*\]\(https?:|<(?:img|script|link)\b[^>]*https?:"
    assert not re.search(loaded, page.read_text()), page


def numbers(text):
  """Numbers as they are printed, thousands without commas."""
  return re.findall(r"-?\d*\.?\d+", text.replace(",", ""))


def assert_rounded(text, *values):
  """`text` states exactly these values, each to its own last digit."""
  printed = numbers(text)
  assert len(printed) == len(values), text
  for number, value in zip(printed, values, strict=True):
    digits = len(number.partition(".")[2])
    assert abs(float(number) - value) <= 0.5001 * 10**-digits, (text, value)


@pytest.fixture(scope="module")
def mnist():
  """The stored report of MNIST, and both of its runs."""
  found = report.load(DOCS / "results" / "mnist" / "report.json")
  standard, pgd = found["runs"]
  return found, standard, pgd


def test_the_page_of_mnist_shows_its_report(mnist):
  text = (DOCS / "results" / "mnist.md").read_text()
  shown = re.search(r"```text\n(.*?)```", text, re.DOTALL)[1]
  assert numbers(shown) == numbers(table.render(mnist[0]))


def test_numbers_of_mnist_are_the_same_wherever_they_are_stated(mnist):
  def accuracies(run):
    return run["performance"]["accuracy"], run["robustness"]["accuracy"]

  def share(run, lens):
    found = run[lens]
    error = found["non_robust_share_standard_error"]
    return 100 * found["non_robust_share"], 100 * error

  def taken(run, quantity):
    return 100 * run["epsilon_lens"][quantity]["non_robust_share"]

  _, *runs = mnist
  results = (ROOT / "README.md").read_text().partition("## Results")[2]
  rows = re.findall(r"^\| (\S.*?) \| (.*) \| (.*) \|$", results, re.M)
  for place, run in enumerate(runs):
    cells = {label: texts[place] for label, *texts in rows}
    clean, attacked = accuracies(run)
    norm = run["fisher"]["frobenius"]
    cckl = run["standard_errors"]["information"]["cckl"]
    for start, values in (
      ("accuracy, clean", (100 * clean, 100 * attacked)),
      ("CCKL (exact", (run["information"]["cckl"], cckl)),
      (
        "mean Frobenius",
        (norm["mean"], norm["standard_error"], norm["median"]),
      ),
      ("lens 1", share(run, "local_lens")),
      ("lens 2", share(run, "path_lens")),
      ("lens 3", (taken(run, "cckl"),)),
    ):
      (cell,) = (c for label, c in cells.items() if label.startswith(start))
      assert_rounded(cell, *values)
    config = (ROOT / "configs" / "mnist.py").read_text()
    line = re.search(rf"^  {run['objective']}  .*$", config, re.M)[0]
    assert_rounded(line, *accuracies(run))

  standard, pgd = runs
  page = (DOCS / "results" / "mnist.md").read_text()
  for pattern, values in (
    (
      r"local non-robust share is (.*?), and PGD",
      (*share(pgd, "local_lens"), *share(standard, "local_lens")),
    ),
    (
      r"and PGD takes (.*?)\.\n",
      (
        taken(pgd, "cckl"),
        taken(pgd, "label_information"),
        taken(standard, "cckl"),
        taken(standard, "label_information"),
      ),
    ),
    (
      r"share of Fisher energy \((.*?) of the divergence",
      (*share(pgd, "path_lens"), *share(standard, "path_lens")),
    ),
  ):
    assert_rounded(re.search(pattern, page, re.DOTALL)[1], *values)
  for lens in ("local", "path"):
    for part in ("robust", "non_robust"):
      row = re.search(
        rf"\| {lens} lens, {part.replace('_', '-')} part \|(.*)", page
      )[1]
      gains = [run[f"{lens}_lens"][part]["variance_reduction"] for run in runs]
      assert_rounded(row, *gains)


# The groups of these patterns hold the same numbers in every file.
STATED_AGAIN = {
  "AutoAttack at linf 0.3": {
    "README.md": r"keeps (.*?) of the 10,000 test images",
    "docs/results/mnist.md": r"AutoAttack standard \| 90.*?\| (.*?) \|",
  },
  "clean accuracy at linf 0.3": {
    "README.md": r"under AutoAttack at (.*?) clean",
    "docs/results/mnist.md": r"\| clean \| 98.*?\| (\S+ %)",
  },
  "small CNN": {
    "docs/guide/models.md": r"\| `cnn` \| 28x28x1 \| (.*?) \|",
    "docs/results/mnist.md": r"same small CNN\s\((.*?) parameters\)",
    "robust_info/models/small.py": (
      r"\s(\S+) parameters on 28x28x1 and 10 classes, 27"
    ),
  },
  "convolutions in loops": {
    "docs/results/attacks_cpu.md": r"CNN, 256 images in two parts \|(.*?)\n",
    "robust_info/_xla/loops.py": r"as a\sloop (.*?) ms, compiled in",
  },
  "cost of AutoAttack": {
    "docs/guide/attacks.md": r"about (.*?) gradients and (.*?)k f",
    "robust_info/attacks/autoattack/ensemble.py": (
      r"about (\S+) forward.*? (\S+)k forward"
    ),
  },
  "cost of the sanity checks": {
    "docs/guide/attacks.md": r"about (\d+) gradients and (\d+) forward",
    "robust_info/attacks/sanity/report.py": (
      r"about (\d+) gradients and (\d+) forward"
    ),
    "robust_info/evaluation/worst_case.py": (
      r"about (\d+) gradients and (\d+) forward"
    ),
  },
  "images a second": {
    "docs/guide/scaling.md": r"decodes about (.*?) images of MNIST a second",
    "robust_info/data/loading.py": r"about (.*?) MNIST images a second",
  },
}


@pytest.mark.parametrize("what", STATED_AGAIN)
def test_a_number_is_the_same_wherever_it_is_stated(what):
  found = {
    place: [
      number
      for group in re.search(pattern, text, re.DOTALL).groups()
      for number in numbers(group)
    ]
    for place, pattern in STATED_AGAIN[what].items()
    for text in [(ROOT / place).read_text()]
  }
  first, *others = found.values()
  assert first
  assert all(other == first for other in others), found


def test_training_page_states_numbers_of_the_page_of_objectives():
  page = (DOCS / "results" / "objectives.md").read_text()
  digits = page[: page.index("## MNIST")]

  def row(name):
    return [
      float(n) for n in numbers(re.search(rf"\| `{name}` \|(.*)", digits)[1])
    ]

  # Means and deviations alternate in the columns.
  robust, share, deviation = 2, 8, 9
  standard, pgd, pair_lens = map(row, ("standard", "pgd", "pair_lens"))
  text = (DOCS / "guide" / "training.md").read_text()
  stated = re.search(r"lowers the share (from.*?) and gains", text, re.DOTALL)[
    1
  ]
  assert_rounded(
    stated,
    standard[share],
    standard[deviation],
    pair_lens[share],
    pair_lens[deviation],
  )
  gains = re.search(r"where `pgd` gains (\d+)", text)[1]
  assert_rounded(gains, pgd[robust] - standard[robust])
