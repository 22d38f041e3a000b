"""The README's Python runs, and its commands exist."""

import doctest
import pathlib
import re

import pytest

from robust_info.config import registry

ROOT = pathlib.Path(__file__).parents[2]
# The sections of frameworks.md need libraries, see test_frameworks.
DOCUMENTS = [
  path
  for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
  if path.name != "frameworks.md"
]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_python_in_a_document_prints_what_the_document_says(path):
  with registry.using(()):
    failed, attempted = doctest.testfile(str(path), module_relative=False)
  assert failed == 0
  assert attempted > 0 or path.parent.name != "reference"


def test_the_readme_has_a_python_example_of_about_ten_lines():
  text = (ROOT / "README.md").read_text()
  first = re.search(r"```python\n(.*?)```", text, re.DOTALL)
  code = [line for line in first[1].splitlines() if line.startswith(">>> ")]
  assert 5 <= len(code) <= 14


def test_make_targets_of_the_readme_exist():
  makefile = (ROOT / "Makefile").read_text()
  text = (ROOT / "README.md").read_text()
  for target in set(re.findall(r"^make (\w+)", text, re.M)):
    assert re.search(rf"^{target}:", makefile, re.M), target
