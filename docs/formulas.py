"""Formulas of the pages as SVG, drawn when the site is built.

A hook of MkDocs, named in mkdocs.yml. A page then needs no script, no font and
no network to show them.
"""

import html
import re
from typing import Any

import ziamath

# The two forms that pymdownx.arithmatex writes with `generic: true`.
_FORMULA = re.compile(
  r'<(?P<tag>span|div) class="arithmatex">'
  r"\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>",
  re.DOTALL,
)
_PIXELS = 17  # Size of the letters; those of the text have 16.


def on_page_content(text: str, **_: Any) -> str:
  """The HTML of a page with every formula as an <svg> element.

  Args:
    text: HTML of the contents of the page.

  Returns:
    The HTML; screen readers get the LaTeX of a formula.

  Raises:
    ValueError: a formula has no size, as an accent over nothing.
  """
  return _FORMULA.sub(_drawn, text)


def _drawn(found: re.Match[str]) -> str:
  latex = " ".join(html.unescape(found["latex"]).split())
  inline = found["tag"] == "span"
  # The colour of the text, so that a dark theme works, too.
  formula = ziamath.Latex(
    latex, size=_PIXELS, inline=inline, color="currentColor"
  )
  if min(formula.getsize()) <= 0:
    raise ValueError(
      f"Expected a formula that can be drawn, got {latex!r}; write it with "
      "other commands."
    )
  label = html.escape(latex)
  svg = formula.svg().replace("<svg ", f'<svg role="img" aria-label="{label}" ')
  if not inline:
    return f'<div style="overflow-x:auto;text-align:center">{svg}</div>'
  # Letters of the formula stand on the line of the text.
  drop = f"display:inline-block;vertical-align:{formula.getyofst():.2f}px"
  return f'<span style="{drop}">{svg}</span>'
