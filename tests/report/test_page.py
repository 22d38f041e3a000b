"""report.html: well-formed, self-contained, escaped, complete, small."""

import base64
import html.parser
import io
import itertools
import json
import re

import numpy as np
import page_report
import PIL.Image
import pytest

from robust_info.report import figures, page
from robust_info.report.page import comparison, content, glossary, pixels

# Elements without an end tag, and attributes that load something.
VOID = {"meta", "link", "img", "br"}
LOADING = {"src", "srcset", "href", "xlink:href", "data", "action", "poster"}
SECTIONS = {
  "summary", "overview", "attack", "sanity", "lenses", "disagreement",
  "examples", "training", "numbers", "reproduce",
}  # fmt: skip


class Page(html.parser.HTMLParser):
  """A page as lists of elements; refuses tags that do not nest."""

  def __init__(self, text):
    super().__init__()
    self.elements, self.words, self._open = [], [], []
    self.feed(text)
    self.close()
    assert not self._open, self._open

  def handle_starttag(self, tag, attrs):
    names = [name for name, _ in attrs]
    assert len(set(names)) == len(names), (tag, attrs)
    self.elements.append((tag, dict(attrs), tuple(self._open)))
    if tag not in VOID:
      self._open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.elements.append((tag, dict(attrs), tuple(self._open)))

  def handle_endtag(self, tag):
    assert self._open[-1] == tag, f"</{tag}> in {self._open}"
    self._open.pop()

  def handle_data(self, data):
    self.words.append(data)

  def of(self, *tags):
    return [attrs for tag, attrs, _ in self.elements if tag in tags]

  @property
  def text(self):
    return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def report():
  return page_report.with_ensemble(page_report.make_report())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def text(report, folder):
  return page_report.draw(
    report, folder, page_report.make_examples(2, (8, 8, 1))
  )


@pytest.fixture(scope="module")
def parsed(text):
  return Page(text)


def test_tags_nest_and_identifiers_are_unique(text, parsed):
  assert text.startswith("<!doctype html>")
  assert parsed.of("html") == [{"lang": "en"}]
  found = [attrs["id"] for _, attrs, _ in parsed.elements if "id" in attrs]
  assert len(found) == len(set(found))
  assert set(found) >= SECTIONS
  drawn = {*figures.__all__} - {"examples", "of_report"}
  assert {f"figure-{name}" for name in drawn} <= set(found)


def test_links_within_the_page_lead_somewhere(parsed):
  found = {attrs.get("id") for _, attrs, _ in parsed.elements}
  for tag, attrs, _ in parsed.elements:
    for name in ("href", "aria-labelledby"):
      target = attrs.get(name, "#summary")
      if name != "href" or target.startswith("#"):
        assert target.removeprefix("#") in found, (tag, attrs)
    for used in re.findall(r"url\(([^)]*)\)", str(attrs)):
      assert used.removeprefix("#") in found, used


def test_nothing_is_loaded_from_elsewhere(text, parsed):
  for tag, attrs, _ in parsed.elements:
    for name in LOADING & attrs.keys():
      if tag != "a":
        assert attrs[name].startswith(("data:", "#")), (tag, attrs[name][:80])
  assert "@import" not in text
  policy = next(a for a in parsed.of("meta") if "http-equiv" in a)
  assert "default-src 'none'" in policy["content"]


def test_names_are_text_and_nothing_else(parsed):
  assert len(parsed.of("script")) == 1
  words = " ".join(page_report.HOSTILE.split())
  # Cards, tables, examples, configuration; escaped once.
  assert parsed.text.count(words) > 20
  assert parsed.text.count(page_report.LONG) > 5
  assert "42" not in next(
    a["aria-label"] for a in parsed.of("div") if "aria-label" in a
  )
  for _, attrs, _ in parsed.elements:
    assert not [name for name in attrs if name.startswith("on")]


def test_the_page_can_be_read_without_seeing_it(parsed):
  levels = [int(tag[1]) for tag, *_ in parsed.elements
            if re.fullmatch("h[1-6]", tag)]  # fmt: skip
  assert levels[0] == 1
  assert levels.count(1) == 1
  assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
  assert all("alt" in attrs for attrs in parsed.of("img"))
  assert all(attrs["scope"] in ("row", "col") for attrs in parsed.of("th"))
  drawings = parsed.of("svg")
  assert len(drawings) == 5
  assert all(a["role"] == "img" and a["aria-label"] for a in drawings)
  # Boxes that scroll can be reached by keyboard.
  for attrs in parsed.of("div", "pre"):
    assert "scroll" not in attrs.get("class", "") or attrs["tabindex"] == "0"


def test_colours_of_figures_follow_the_theme(text, parsed):
  defined = set(re.findall(r"^(--c-\w+):", text, re.M))
  used = set(re.findall(r"var\((--c-\w+)\)", text))
  assert used <= defined
  fixed = [
    attrs["style"]
    for tag, attrs, inside in parsed.elements
    if "svg" in inside and re.search("#[0-9a-f]{6}", attrs.get("style", ""))
  ]
  # The outlines on the heat maps, which are the same in both themes.
  assert fixed
  assert all("#fafafa" in style for style in fixed)


def test_the_numbers_are_those_of_the_report(report, parsed):
  run = report["runs"][0]
  for value, error in (
    (run["performance"]["accuracy"],
     run["standard_errors"]["performance"]["accuracy"]),
    (run["robustness"]["accuracy"], run["robustness"]["standard_error"]),
  ):  # fmt: skip
    assert f"{100 * value:.1f} % ± {100 * error:.1f}" in parsed.text
  assert "AutoAttack standard breaks another 3.0 % ± 0.2" in parsed.text
  assert "not trustworthy: <script>" in parsed.text
  assert report["software"]["jax"] in parsed.text


def test_a_page_of_one_run_without_an_ensemble_or_pictures(folder):
  single = page_report.make_report(1)
  single["runs"][0]["robustness"]["sanity"] = {}
  single["runs"][0]["starts"][0]["git"] = {
    "commit": "abc", "uncommitted_changes": True
  }  # fmt: skip
  parsed = Page(page.write(single, folder).read_text(encoding="utf-8"))
  found = {attrs.get("id") for _, attrs, _ in parsed.elements}
  assert SECTIONS - found == {"examples"}
  assert "figure-strength" not in found
  assert "breaks another" not in parsed.text
  assert "not checked" in parsed.text
  assert "abc, with uncommitted changes" in parsed.text
  page_report.without_a_run(single)
  parsed = Page(page.write(single, folder).read_text(encoding="utf-8"))
  found = {attrs.get("id") for _, attrs, _ in parsed.elements}
  assert SECTIONS - found == {"examples", "training"}
  assert "None" not in parsed.text


@pytest.mark.parametrize(("num_runs", "shape", "limit"), [
  (3, (224, 224, 3), 3e6), (20, (224, 224, 3), 10e6),
])  # fmt: skip
def test_pictures_of_any_size_fit_the_page(num_runs, shape, limit):
  # Noise, which PNG cannot compress.
  shown = page_report.make_examples(num_runs, shape)
  report = {
    "data": {"label_names": "0123456789"}, "runs": [None] * num_runs
  }  # fmt: skip
  found = content.examples(report, shown)
  # Of three runs, the rest of a page has 0.4 MB, of twenty 2 MB.
  assert len(json.dumps(found)) < limit - 2e6 * num_runs / 20
  assert content.sampling(page_report.make_examples(3, (32, 32, 3))) == 1


def test_pictures_show_their_pixels():
  def read(uri):
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(PIL.Image.open(io.BytesIO(data)))

  grey = np.array([[[0.0], [1.0]], [[0.5], [np.nan]]])
  assert read(pixels.picture(grey)).tolist() == [[0, 255], [128, 128]]
  colour = np.zeros((4, 4, 3))
  colour[2, 2] = (1, 0, 1)
  assert read(pixels.picture(colour))[2, 2].tolist() == [255, 0, 255]
  signed = read(pixels.diverging(np.array([[[-2.0], [0.0], [2.0]]])))
  blue, white, red = signed[0].astype(int)
  assert blue[2] > blue[0] + 100
  assert red[0] > red[2] + 100
  assert white.tolist() == [247, 247, 247]


def test_every_number_of_the_table_has_a_meaning(report):
  for table in content.tables(report["runs"]):
    meant = {column["label"] for column in table["columns"]
             if glossary.meaning(column["label"])}  # fmt: skip
    labels = {column["label"] for column in table["columns"]}
    assert labels - meant <= {"objective, model", "checkpoint"}


@pytest.mark.parametrize(("shares", "expected"), [
  ((0.1, 1.0, 0.2), ["All three lenses find a less fragile than b."]),
  ((0.1, 2.0, 0.2), [
    "The local lens and the epsilon lens find a less fragile than b.",
    "The path lens finds a more fragile than b.",
    "Compared with b, a is flat near the images and steep between them: "
    "straight lines between classes cross a steeper boundary.",
    "This is no contradiction: the lenses answer different questions.",
  ]),
  ((0.3, 1.5, 0.4), [
    "All three lenses find no clear difference between a and b."
  ]),
  ((-0.1, 1.5, 0.2), [
    "The epsilon lens finds a less fragile than b.",
    "The path lens finds no clear difference between a and b.",
  ]),
  ((float("nan"), 1.5, 0.2), [
    "The epsilon lens finds a less fragile than b.",
    "The path lens finds no clear difference between a and b.",
  ]),
])  # fmt: skip
def test_lenses_are_compared_in_words(shares, expected):
  def run(name, accuracy, local, path, epsilon):
    return {
      "name": name,
      "robustness": {"accuracy": accuracy},
      **{
        f"{lens}_lens": {
          "non_robust_share": share,
          "non_robust_share_standard_error": 0.01,
        }
        for lens, share in (("local", local), ("path", path))
      },
      "epsilon_lens": {
        "cckl": {
          "non_robust_share": epsilon,
          "standard_errors": {"non_robust_share": 0.01},
        }
      },
    }

  runs = [run("b", 0.2, 0.31, 1.51, 0.41), run("a", 0.9, *shares)]
  assert comparison.extremes(runs) == (1, 0)
  assert comparison.explain(
    comparison.compare(runs[1], runs[0]), "a", "b"
  ) == expected  # fmt: skip
