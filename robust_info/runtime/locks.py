"""Locks on files, so that two processes do not write in one directory.

A lock belongs to a process and disappears with it, however it ends, so that a
stale lock never blocks. On a file system without locks nothing is locked.
"""

import contextlib
import errno
import fcntl
import os
import socket
from typing import Any

from robust_info.runtime import files

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


class BusyError(OSError):
  """Another process holds the lock; one line."""


class Lock:
  """A lock on a file, held from its creation on; use as a context manager."""

  def __init__(self, path: str | os.PathLike[str], name: str):
    """Creates the file if it is missing, and locks it, without waiting.

    Args:
      path: the file; its directory exists. It stays when the lock is gone.
      name: name of the locked thing in the error, for example `Workdir /a/b`.

    Raises:
      BusyError: another process has locked it, or this one, by another `Lock`.
      OSError: the file cannot be written.
    """
    self._file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
    try:
      self._acquire(name)
    except BaseException:
      with contextlib.suppress(OSError):  # It tries to write once more.
        self.close()
      raise

  def close(self) -> None:
    """Releases the lock."""
    self._file.close()

  def __enter__(self) -> "Lock":
    return self

  def __exit__(self, *exception: Any) -> None:
    self.close()

  def _acquire(self, name: str) -> None:
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      if error.errno in _WITHOUT_LOCKS:
        return
      if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
        raise
      self._file.seek(0)
      holder = self._file.read().strip() or "another process"
      raise BusyError(f"{name} is in use by {holder}") from error
    with files.naming(self._file.name):
      self._file.truncate(0)
      self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
      self._file.flush()
