"""The machine and where it keeps what can be made again."""

import os
import pathlib
import platform


def cache_root(
  cache_dir: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
  """The folder of caches: `cache_dir`, ROBUST_INFO_CACHE or ~/.cache."""
  chosen = cache_dir or os.environ.get("ROBUST_INFO_CACHE")
  return pathlib.Path(chosen or "~/.cache/robust_info").expanduser()


def processor() -> str:
  """The model of the processor, as the system names it."""
  try:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
      if line.startswith("model name"):
        return line.partition(":")[2].strip()
  except OSError:
    pass
  return platform.processor() or platform.machine()
