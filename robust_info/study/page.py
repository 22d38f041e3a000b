"""Fills the tables of a study into a page in Markdown."""

import re
from collections.abc import Mapping, Sequence

_SLOT = re.compile(
  r"(?P<begin><!-- study: (?P<name>[\w-]+) -->\n).*?"
  r"(?P<end><!-- study: end -->)",
  re.DOTALL,
)


def fill(text: str, tables: Mapping[str, Sequence[str]]) -> str:
  """The page with the present tables in its slots.

  A slot is what lies between the lines `<!-- study: NAME -->` and
  `<!-- study: end -->`. Filling a filled page changes nothing.

  Args:
    text: the page.
    tables: lines by name.

  Raises:
    ValueError: no slot, or one without a table of its name or without an end.
  """
  begins = text.count("<!-- study: ") - text.count("<!-- study: end -->")
  slots = [*_SLOT.finditer(text)]
  if not slots or len(slots) != begins:
    raise ValueError(
      "Expected lines `<!-- study: NAME -->` in the page, each with a line "
      f"`<!-- study: end -->` after it, got {begins} and "
      f"{text.count('<!-- study: end -->')}."
    )
  for slot in slots:
    if slot["name"] not in tables:
      raise ValueError(
        f"Expected the name of a table in the page, got {slot['name']!r}; "
        f"there are {', '.join(tables)}."
      )

  def replaced(slot: re.Match[str]) -> str:
    lines = "\n".join(tables[slot["name"]])
    return f"{slot['begin']}\n{lines}\n\n{slot['end']}"

  return _SLOT.sub(replaced, text)
