"""The sections of docs/guide/frameworks.md run, each with its library."""

import doctest
import importlib
import pathlib
import re

import jax
import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs/guide/frameworks.md"
BEGINNING, *SECTIONS = re.split(r"^## ", PAGE.read_text(), flags=re.M)[1:]
LIBRARIES = {
  "Equinox": "equinox",
  "Haiku": "haiku",
  "Keras": "keras",
  "PyTorch": "torchax",
  "A whole report, and the weights elsewhere": "safetensors",
}


@pytest.mark.parametrize(
  "section", SECTIONS, ids=lambda section: section.partition("\n")[0]
)
def test_a_section_runs_after_the_beginning(section, tmp_path, monkeypatch):
  title = section.partition("\n")[0]
  if title in LIBRARIES:
    pytest.importorskip(LIBRARIES[title])
  monkeypatch.chdir(tmp_path)
  if title == "Keras":
    keras = importlib.import_module("keras")
    if keras.backend.backend() != "jax":
      pytest.skip("Keras runs on another backend; set KERAS_BACKEND=jax.")
  text = BEGINNING + section
  found = doctest.DocTestParser().get_doctest(text, {}, title, str(PAGE), 0)
  # Libraries train with the promotions of NumPy, which the tests forbid.
  with jax.numpy_rank_promotion("allow"):
    result = doctest.DocTestRunner().run(found)
  assert result.attempted > 10
  assert result.failed == 0
