"""One-line errors for lack of memory, with the settings that need it."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence

import jax

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")


class OutOfMemoryError(RuntimeError):
  """Settings need more memory than is available; one line."""


@dataclasses.dataclass(frozen=True)
class Need:
  """Memory that some settings need.

  Attributes:
    settings: names and values of the settings.
    purpose: name of the arrays.
    num_bytes: size of the arrays on one device.
    remedy: advice on how to reduce it.
  """

  settings: str
  purpose: str
  num_bytes: int
  remedy: str


@contextlib.contextmanager
def explained(needs: Callable[[], Sequence[Need]]) -> Iterator[None]:
  """Turns errors for lack of memory into one line with the needs.

  Args:
    needs: function that returns the needs; called after such an error.

  Raises:
    OutOfMemoryError: replaces a MemoryError, an OverflowError, and a runtime
      error of XLA for lack of memory.
  """
  try:
    yield
  except (MemoryError, OverflowError, jax.errors.JaxRuntimeError) as error:
    if isinstance(error, jax.errors.JaxRuntimeError) and not is_lack(error):
      raise
    # A size that overflows the integers of the machine is lack of memory, too.
    text = " ".join(str(error).split())[:160] or type(error).__name__
    raise OutOfMemoryError(
      f"Out of memory ({text}): {listed(needs())}."
    ) from error


def is_lack(error: BaseException) -> bool:
  """Whether a runtime error of XLA reports lack of memory."""
  text = str(error).lower()
  return "resource_exhausted" in text or "out of memory" in text


def available() -> int:
  """Bytes of memory of a device; for a CPU, of the machine."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if "bytes_limit" in stats:
    return stats["bytes_limit"]
  return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def listed(needs: Sequence[Need]) -> str:
  """Describes the needs, with the remedy of the largest."""
  largest = max(needs, key=lambda need: need.num_bytes)
  asked = "; ".join(
    f"{need.settings} asks for about {readable(need.num_bytes)} "
    f"({need.purpose})"
    for need in needs
  )
  return f"{asked}; {largest.remedy}"


def readable(num_bytes: int) -> str:
  """Formats a number of bytes with three digits and a unit."""
  power = min(max(num_bytes.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
  return f"{num_bytes / 1024**power:.3g} {_UNITS[power]}"
