"""Files on disk: written whole or not at all, and verified by a checksum.

A *sealed* JSON file is an object with one more member, `crc32`, the CRC-32 of
the others as canonical JSON (sorted keys, no spaces). It does not depend on the
layout of the file, and it detects every change of a single bit that changes the
content.
"""

import contextlib
import errno
import json
import os
import pathlib
import uuid
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

_SEAL = "crc32"
# Errors of a file that another place would not avoid, and what helps.
_LIMITS = {
  errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
  errno.EMFILE: "raise the limit on open files (ulimit -n)",
  errno.ENFILE: "close files: the whole system has too many open ones",
}
_FULL = {
  errno.ENOSPC: "free space on that disk",
  errno.EDQUOT: "free space in the quota of that disk",
}
# Errors of a file in a place that does not suit.
_PLACES = {
  errno.EACCES: "change its permissions",
  errno.EPERM: "change its permissions",
  errno.EROFS: "choose a place that can be written",
  errno.EIO: "check that disk",
}
_READ_BYTES = 1 << 22


class DamageError(ValueError):
  """The content of a file differs from the content written; one line.

  Never raised because a file cannot be read; that raises an OSError.
  """


def remedy(number: int | None, elsewhere: str = "") -> str:
  """Text on what helps against an error of the operating system.

  Args:
    number: the `errno` of the error.
    elsewhere: text on how to choose another place, for example "choose another
      --workdir", where that is possible.

  Returns:
    Text without a full stop; empty where nothing is known to help.
  """
  if number in _LIMITS:
    return _LIMITS[number]
  if number in _FULL:
    return " or ".join(filter(None, (_FULL[number], elsewhere)))
  return elsewhere or _PLACES.get(number, "")


def one_line(error: BaseException) -> str:
  """An error as one line for users, with the remedy for one of the system."""
  text = " ".join(str(error).split()) or type(error).__name__
  fix = remedy(error.errno) if isinstance(error, OSError) else ""
  return f"{text}; {fix}, then start the same command again." if fix else text


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
  """Puts the name of a file into the errors of writing it, which have none."""
  try:
    yield
  except OSError as error:
    raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def exists(path: str | os.PathLike[str]) -> bool:
  """Whether a file or directory of this name exists.

  Raises:
    OSError: the answer cannot be determined; `pathlib` returns False in some of
      these cases.
  """
  try:
    os.stat(path)
  except FileNotFoundError:
    return False
  return True


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
  """Writes a file; other processes see it whole or not at all.

  If the process is killed at any moment, or the machine loses power, the
  previous file or the new one is left. Several processes may write the same
  file; the last write wins.

  Args:
    path: the file; its directory must exist.
    content: content of the file; text is written as UTF-8. Parts of it that
      UTF-8 lacks, as in names of files in another encoding, become escapes.

  Raises:
    OSError: the file cannot be written, for example on a full disk; names
      `path`. The previous file is untouched.
  """
  if isinstance(content, str):
    content = content.encode(errors="backslashreplace")
  with replacing(path) as file:
    file.write(content)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
  """A new file to write in a `with` block, as `write_whole` does.

  Args:
    path: the file; its directory must exist. An error in the block leaves the
      previous file, and is raised as it is unless it is one of writing the new
      file.

  Yields:
    The file, open for writing; it takes its name when the block ends.

  Raises:
    OSError: as `write_whole`.
  """
  path = pathlib.Path(path)
  # Unique, and not too long where the name itself is allowed.
  scratch = path.with_name(f"{uuid.uuid4().hex}.tmp")
  try:
    try:
      with open(scratch, "xb") as file:
        yield file
        file.flush()
        # Before the renaming: a power loss must not leave an empty file.
        os.fsync(file.fileno())
      os.replace(scratch, path)
    finally:
      with contextlib.suppress(OSError):
        scratch.unlink()
    _sync_directory(path.parent)
  except OSError as error:
    # The block may read other files, whose errors are not of this one.
    own = (None, str(scratch), str(path.parent))
    name = error.filename if error.filename is None else str(error.filename)
    if error.errno is None or name not in own:
      raise
    raise OSError(error.errno, error.strerror, str(path)) from error


def _sync_directory(path: pathlib.Path) -> None:
  """Flushes the names in a directory to disk, if its file system can."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError as error:
    if error.errno not in (errno.EINVAL, errno.ENOTSUP):
      raise
  finally:
    os.close(descriptor)


def read_json(path: str | os.PathLike[str]) -> Any:
  """The JSON value of a file.

  Args:
    path: a UTF-8 file.

  Raises:
    DamageError: the file is not JSON; the error does not name the file.
    OSError: it is not there or cannot be read.
  """
  content = pathlib.Path(path).read_bytes()
  try:
    return json.loads(content.decode())
  # Deep nesting, which no file of this package has, exhausts the stack.
  except (ValueError, RecursionError) as error:
    raise DamageError(f"it is no JSON: {error}") from error


def write_sealed(
  path: str | os.PathLike[str], content: Mapping[str, Any]
) -> None:
  """Writes a JSON object with its checksum, as `write_whole` does.

  Args:
    path: its directory exists.
    content: JSON values, without a member `crc32`.
  """
  write_whole(path, json.dumps(seal(content), indent=2) + "\n")


def read_sealed(
  path: str | os.PathLike[str],
) -> tuple[dict[str, Any], bool]:
  """The content of a JSON object, and whether it has a valid checksum.

  Args:
    path: a file from `write_sealed`, or a file of an older version, without a
      checksum.

  Raises:
    DamageError: the file is not a JSON object, or its content differs from the
      content written.
    OSError: it is not there or cannot be read.
  """
  return unseal(read_json(path))


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
  """Adds the member `crc32`, the checksum of the other members."""
  return {**content, _SEAL: _checksum(content)}


def unseal(content: Any) -> tuple[dict[str, Any], bool]:
  """Inverts `seal`; see `read_sealed`."""
  if not isinstance(content, dict):
    kind = "null" if content is None else type(content).__name__
    raise DamageError(f"it is no JSON object but {kind}")
  if _SEAL not in content:
    return content, False
  rest = {name: value for name, value in content.items() if name != _SEAL}
  if content[_SEAL] != _checksum(rest):
    raise DamageError("its checksum is wrong")
  return rest, True


def _checksum(content: Mapping[str, Any]) -> int:
  # Convert through JSON first: tuples become lists, and keys become text before
  # they are sorted.
  content = json.loads(json.dumps(content))
  text = json.dumps(content, sort_keys=True, separators=(",", ":"))
  return zlib.crc32(text.encode())


def checksum_of(path: str | os.PathLike[str]) -> int:
  """The CRC-32 of a file's bytes, at about 1 GB/s.

  Raises:
    OSError: it is not there or cannot be read.
  """
  checksum = 0
  with open(path, "rb") as file:
    while content := file.read(_READ_BYTES):
      checksum = zlib.crc32(content, checksum)
  return checksum
