"""The table in docs/guide/models.md equals the output of its command."""

import pathlib

import jax

from benchmarks import models as table
from robust_info import models

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "guide" / "models.md"


def test_rows_of_the_page_are_current():
  text = PAGE.read_text()
  for row in table.rows(table.NETWORKS[:5]):
    # Skip the last column, the count by XLA, which may change with its version.
    assert row.rsplit("|", 2)[0] in text


def test_every_network_of_the_table_has_its_parameters_on_the_page():
  text = PAGE.read_text()
  for title, shape, name, arguments in table.NETWORKS:
    _, variables, _ = table.abstract(shape, name, arguments)
    (line,) = (k for k in text.splitlines() if k.startswith(f"| {title} |"))
    assert f" {table.num_parameters(variables):,} |" in line


def test_every_model_is_on_the_page():
  text = PAGE.read_text()
  for name in models.NAMES:
    assert f"`{name}`" in text


def test_products_are_counted_as_by_hand():
  apply, *arguments = table.abstract((28, 28, 1), "cnn", {})
  jaxpr = jax.make_jaxpr(apply)(*arguments).jaxpr
  convolutions = 14 * 14 * 25 * 16 + 7 * 7 * 25 * 16 * 32
  dense = 7 * 7 * 32 * 100 + 100 * 10
  assert table.product_flops(jaxpr) == 2 * (convolutions + dense)
