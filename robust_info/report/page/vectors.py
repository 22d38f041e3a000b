"""SVG files of Matplotlib as parts of a page."""

import re
from xml.etree import ElementTree

import markupsafe

from robust_info.plots.drawing import style

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
# Attributes whose numbers need no more than two decimals.
_ROUNDED = ("d", "x", "y", "width", "height", "transform", "viewBox")
_THEMED = frozenset(style.on_dark())


def inline(svg: str, *, prefix: str, description: str) -> markupsafe.Markup:
  """An SVG element for a page with a light and a dark theme.

  Text is in the font of the page, except for formulas, whose characters have
  fixed places. Colours of the figures are CSS variables, see `variable`.

  Args:
    svg: an SVG file as written by `style.save`.
    prefix: start of the identifiers in the element, unique in the page.
    description: text for readers who do not see the figure.

  Returns:
    The element, safe in HTML. It fills the width of its parent.
  """
  root = ElementTree.fromstring(svg)
  _drop(root, f"{_SVG}metadata")
  for definitions in root.iter(f"{_SVG}defs"):
    # Its one rule is in the style of the page.
    _drop(definitions, f"{_SVG}style")
  linked = _linked(root)
  for element in root.iter():
    element.tag = element.tag.removeprefix(_SVG)
    element.attrib = dict(_attributes(element, linked, prefix))
    element.tail = None
    if element.tag not in ("text", "tspan"):
      element.text = None
  for side in ("width", "height"):
    root.attrib.pop(side)
  root.attrib |= {"role": "img", "aria-label": description}
  return markupsafe.Markup(ElementTree.tostring(root, encoding="unicode"))


def variable(colour: str) -> str:
  """Name of the CSS variable of a colour of the figures, "#rrggbb"."""
  return f"--c-{colour[1:]}"


def _drop(parent: ElementTree.Element, tag: str) -> None:
  for child in parent.findall(tag):
    parent.remove(child)


def _linked(root: ElementTree.Element) -> set[str]:
  """Identifiers that other elements refer to."""
  found = set()
  for element in root.iter():
    for name, value in element.attrib.items():
      found.update(re.findall(r"url\(#([^)]+)\)", value))
      if name == _LINK:
        found.add(value.removeprefix("#"))
  return found


def _attributes(element, linked, prefix):
  """Attributes of the element in the page, as names and values."""
  for name, value in element.attrib.items():
    if name == "id":
      if value in linked:
        yield name, prefix + value
    elif name == _LINK:
      target = value.startswith("#")  # Otherwise, the data of an image.
      yield "href", f"#{prefix}{value[1:]}" if target else value
    elif name == "style":
      yield name, _style(value, element.tag, prefix)
    elif name == "fill":  # CSS variables are known to styles only.
      yield "style", f"fill: {_colour(value)}"
    elif name in _ROUNDED:
      short = re.sub(r"(\.\d\d)\d+", r"\1", value)
      yield name, " ".join(short.split())
    else:
      yield name, _local(value, prefix)


def _style(text: str, tag: str, prefix: str) -> str:
  found = {}
  for part in text.split(";"):
    name, _, value = part.partition(":")
    name, value = name.strip(), value.strip()
    if name == "font-family":
      if tag != "tspan":
        continue
      value = f"{value}, Verdana, sans-serif"
    found[name] = _local(_colour(value), prefix)
  return "; ".join(f"{name}: {value}" for name, value in found.items())


def _colour(value: str) -> str:
  return f"var({variable(value)})" if value in _THEMED else value


def _local(value: str, prefix: str) -> str:
  return re.sub(r"url\(#", f"url(#{prefix}", value)
