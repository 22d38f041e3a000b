import errno
import fcntl
import os
import resource

import pytest

from robust_info.runtime import locks


def test_a_second_lock_names_the_holder_of_the_first(tmp_path):
  with (
    locks.Lock(tmp_path / "lock", "It"),
    pytest.raises(
      locks.BusyError, match=rf"^It is in use by process {os.getpid()} on \S+$"
    ),
  ):
    locks.Lock(tmp_path / "lock", "It")
  with locks.Lock(tmp_path / "lock", "It"):
    pass


def test_a_lock_that_cannot_be_written_is_an_error_that_names_the_file(
  tmp_path,
):
  path = tmp_path / "lock"
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  # As on a full disk.
  resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
  try:
    with pytest.raises(OSError, match=f"File too large: '{path}'"):
      locks.Lock(path, "It")
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EIO])
def test_a_file_system_without_locks_locks_nothing(
  tmp_path, monkeypatch, number
):
  def flock(*_):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(fcntl, "flock", flock)
  if number == errno.EIO:
    with pytest.raises(OSError, match=os.strerror(number)):
      locks.Lock(tmp_path / "lock", "It")
  else:
    with locks.Lock(tmp_path / "lock", "It"):
      pass
