"""The machine, its software and this code; the cache folder."""

import functools
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
import time
from typing import Any

import jax

from robust_info.runtime._version import __version__


def cache_root(
  cache_dir: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
  """The folder of caches: `cache_dir`, ROBUST_INFO_CACHE or ~/.cache."""
  chosen = cache_dir or os.environ.get("ROBUST_INFO_CACHE")
  return pathlib.Path(chosen or "~/.cache/robust_info").expanduser()


class DeviceError(RuntimeError):
  """JAX finds no device to compute on; one line."""


def require_device() -> None:
  """Starts the devices of JAX.

  Raises:
    DeviceError: there are none, for example because JAX_PLATFORMS names a
      platform that is not installed.
  """
  try:
    jax.devices()
  # Without the plugin of a known platform, JAX fails by an assertion.
  except (RuntimeError, AssertionError) as error:
    reason = " ".join(str(error).split()) or "it is not installed"
    asked = jax.config.jax_platforms
    fix = "set JAX_PLATFORMS=cpu to compute on the processor"
    if asked:
      fix = f"unset it, or {fix}"
    setting = f" with JAX_PLATFORMS={asked}" if asked else ""
    raise DeviceError(
      f"JAX has no device{setting} ({reason.rstrip('.')}); {fix}."
    ) from error


def processor() -> str:
  """The model of the processor, as named by the system."""
  try:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
      if line.startswith("model name"):
        return line.partition(":")[2].strip()
  except OSError:
    pass
  return platform.processor() or platform.machine()


def device() -> str:
  """The kind of the accelerator that JAX computes on, or of the processor."""
  first = jax.devices()[0]
  return processor() if first.platform == "cpu" else first.device_kind


_PACKAGES = (
  "flax",
  "jax",
  "jaxlib",
  "ml_collections",
  "numpy",
  "optax",
  "orbax-checkpoint",
  "tensorflow-datasets",
)


def of_start() -> dict[str, Any]:
  """Record of a program start: time, command, versions, commit, devices."""
  versions = {"python": platform.python_version()}
  for name in _PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  device = jax.devices()[0]
  return {
    "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    "command": sys.argv,
    "versions": versions,
    "git": _git(),
    "platform": platform.platform(),
    "cpu_count": os.cpu_count(),
    "backend": device.platform,
    "device": device.device_kind,
    "num_devices": jax.device_count(),
    "num_processes": jax.process_count(),
  }


def _git() -> dict[str, Any] | None:
  """Commit of this package, None when it was not run from a clone."""
  here = pathlib.Path(__file__).parent

  def git(*arguments: str) -> str:
    return subprocess.run(
      ["git", "-C", str(here), *arguments],
      capture_output=True,
      check=True,
      text=True,
      timeout=10,
    ).stdout.strip()

  try:
    # An installed package may lie inside the clone of another project.
    git("ls-files", "--error-unmatch", pathlib.Path(__file__).name)
    commit = git("rev-parse", "HEAD")
    changed = bool(git("status", "--porcelain", "--untracked-files=no"))
  except (OSError, subprocess.SubprocessError):
    return None
  return {"commit": commit, "uncommitted_changes": changed}


_AGREED = ("jax", "jaxlib", "flax", "optax", "numpy")


def agreed_versions() -> dict[str, str]:
  """The versions of the code and of the libraries that numbers depend on."""
  found = {name: importlib.metadata.version(name) for name in _AGREED}
  return {
    **found,
    "python": platform.python_version(),
    "robust_info code": code_digest()[:12],
    "backend": jax.default_backend(),
  }


@functools.cache
def code_digest() -> str:
  """A hash of the source of this package."""
  digest = hashlib.sha256()
  package = pathlib.Path(__file__).parents[1]
  for path in sorted(package.rglob("*.py")):
    digest.update(path.relative_to(package).as_posix().encode() + b"\0")
    digest.update(path.read_bytes() + b"\0")
  return digest.hexdigest()


def of_report() -> dict[str, Any]:
  """The software and the device behind the numbers of a report."""
  device = jax.devices()[0]
  return {
    "robust_info": __version__,
    "jax": jax.__version__,
    "flax": importlib.metadata.version("flax"),
    "python": platform.python_version(),
    "device": device.device_kind,
    "backend": device.platform,
    "cpu_count": os.cpu_count(),
    "command": sys.argv,
  }
