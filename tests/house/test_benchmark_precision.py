"""The page of work and precision: its tables, its figure and its prose."""

import pathlib
import re

from benchmarks import precision

DOCS = pathlib.Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "results" / "precision.md").read_text()


def rows(name):
  """Rows of an estimator: setting, passes, error and its own estimate."""
  return [
    (setting, *(float(cell.replace(",", "")) for cell in cells))
    for setting, *cells in re.findall(
      rf"^\| {name} \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$", PAGE, re.M
    )
  ]


def test_only_the_tables_of_the_page_are_written(tmp_path):
  (tmp_path / "results").mkdir()
  page = tmp_path / "results" / "precision.md"
  page.write_text(PAGE)
  points = [
    precision.Point(f"n={n}", n, 1 / n, 2 / n) for n in (1, 10, 100, 1000)
  ]
  measured = [{"one": points, "two": points[:2]} for _ in precision.PANELS]
  text = precision.tables(measured)
  for _ in range(2):
    precision.write(tmp_path, text, precision.draw(measured))
  written = page.read_text()
  before = PAGE.partition("<!-- tables: begin -->")[0]
  assert written.startswith(before)
  assert written.count("| one | n=1000 | 1,000 | 1.0e-03 | 2.0e-03 |") == 3
  assert "Lanczos" not in written[len(before) :]
  assert (tmp_path / "images" / "precision.png").stat().st_size > 10_000


def test_the_prose_states_what_the_tables_show():
  by_passes = {
    name: {passes: error for _, passes, error, _ in rows(name)}
    for name in (
      "trace",
      "spectral norm",
      "chord",
      "extrapolated",
      "no control",
      "CCKL",
      "CCKL and coarse lens",
    )
  }
  # Of 100 passes, "a fifth", and "two thirds for the trace"
  assert by_passes["spectral norm"][19] < 1e-6 < by_passes["trace"][35]
  assert by_passes["trace"][67] < 1e-6
  # "from about 32 segments the extrapolated one is more accurate"
  assert by_passes["extrapolated"][33] < by_passes["chord"][33]
  # "about a quarter of the error"; "halves it again at the same passes"
  for passes, error in by_passes["CCKL"].items():
    assert 0.2 < error / by_passes["no control"][passes] < 0.3
  assert by_passes["CCKL and coarse lens"][6976] < 0.6 * by_passes["CCKL"][8320]
  # "ten to fifteen times the error"
  for _, _, error, stated in rows("extrapolated"):
    assert 9.5 < stated / error < 15.5
