"""The examples of the documentation run, and its pages name what exists."""

import doctest
import importlib
import pathlib
import re

import pytest

DOCS = pathlib.Path(__file__).parent.parent / "docs"
API = sorted((DOCS / "api").glob("*.md"))


@pytest.mark.parametrize("path", API, ids=lambda path: path.stem)
def test_examples_run_and_print_what_they_say(path):
  result = doctest.testfile(str(path), module_relative=False)
  assert result.attempted > 0
  assert result.failed == 0


@pytest.mark.parametrize("path", API, ids=lambda path: path.stem)
def test_pages_name_existing_modules_and_members(path):
  text = path.read_text()
  modules = re.findall(r"^::: (\S+)((?:\n    .*|\n      .*)*)", text, re.M)
  assert modules
  for name, options in modules:
    module = importlib.import_module(name)
    listed = re.search(r"members: \[(.*)\]", options)
    for member in listed.group(1).split(", ") if listed else []:
      assert getattr(module, member).__doc__, member


def test_links_between_pages_lead_somewhere():
  for page in DOCS.rglob("*.md"):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
      assert (page.parent / target).exists(), f"{page}: {target}"
