"""Files are written in full or not at all, and every flipped bit is found."""

import errno
import json
import math
import os
import random

import pytest

from robust_info.runtime import files

CONTENT = {
  "mean": [0.3055, 1e-30, -0.0],
  "name": "a é",
  "nested": {"none": None, "yes": True, "big": 2**63},
}


def test_file_is_replaced_whole_and_alone(tmp_path):
  path = tmp_path / "a"
  for content in ("é\n", b"\x00\xff", ""):
    files.write_whole(path, content)
    expected = content if isinstance(content, bytes) else content.encode()
    assert path.read_bytes() == expected
    assert os.listdir(tmp_path) == ["a"]


def test_name_in_another_encoding_does_not_lose_the_text_around_it(tmp_path):
  name = os.fsdecode(b"caf\xe9")
  files.write_whole(tmp_path / "a", json.dumps([name, "é"], ensure_ascii=False))
  assert json.loads((tmp_path / "a").read_text("utf-8")) == [name, "é"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failure_leaves_what_was_there_and_names_the_file(
  tmp_path, monkeypatch, call
):
  path = tmp_path / "a"
  files.write_whole(path, "before")

  def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(os, call, full)
  with pytest.raises(OSError, match=r"No space left on device.*/a'") as error:
    files.write_whole(path, "after")
  assert error.value.errno == errno.ENOSPC
  assert path.read_text() == "before"
  assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
  ("number", "fix", "with_place"),
  [
    (errno.ENOSPC, "free space on that disk", "free space on that disk or go"),
    (errno.EFBIG, "ulimit -f", "ulimit -f"),
    (errno.EMFILE, "ulimit -n", "ulimit -n"),
    (errno.EROFS, "choose a place that can be written", "go"),
    (errno.EACCES, "change its permissions", "go"),
  ],
)
def test_error_of_the_system_is_one_line_with_the_remedy(
  number, fix, with_place
):
  line = files.one_line(OSError(number, os.strerror(number), "/a/b"))
  assert line.startswith(f"[Errno {number}] {os.strerror(number)}: '/a/b'; ")
  assert line.endswith(", then start the same command again.")
  assert fix in line
  assert with_place in files.remedy(number, "go")


def test_other_errors_are_their_own_line():
  assert files.one_line(ValueError("a\n  b.")) == "a b."
  assert files.one_line(KeyboardInterrupt()) == "KeyboardInterrupt"
  assert files.one_line(OSError("Cannot go.")) == "Cannot go."
  assert files.remedy(errno.ENOENT) == ""


def test_file_and_its_name_are_on_the_disk_before_the_call_returns(
  tmp_path, monkeypatch
):
  done = []
  fsync, replace = os.fsync, os.replace
  monkeypatch.setattr(
    os,
    "fsync",
    lambda fd: (done.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)),
  )
  monkeypatch.setattr(
    os, "replace", lambda *names: (done.append("replace"), replace(*names))
  )
  files.write_whole(tmp_path / "a", "x")
  assert done[0].startswith(f"{tmp_path}/")
  assert done[1:] == ["replace", str(tmp_path)]


def test_sealed_content_comes_back_and_layout_does_not_count(tmp_path):
  path = tmp_path / "a.json"
  files.write_sealed(path, CONTENT)
  assert files.read_sealed(path) == (CONTENT, True)
  path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
  assert files.read_sealed(path) == (CONTENT, True)


def test_sealed_numbers_that_are_not_finite_and_keys_that_are_no_text(
  tmp_path,
):
  path = tmp_path / "a.json"
  content = {"values": (math.nan, math.inf, -math.inf), "rows": {10: 1, 9: 2}}
  files.write_sealed(path, content)
  found, checked = files.read_sealed(path)
  assert checked
  assert math.isnan(found["values"][0])
  assert found["values"][1:] == [math.inf, -math.inf]
  assert found["rows"] == {"10": 1, "9": 2}


def test_content_without_a_seal_is_read_and_called_so(tmp_path):
  path = tmp_path / "a.json"
  path.write_text(json.dumps(CONTENT))
  assert files.read_sealed(path) == (CONTENT, False)


def test_no_flipped_bit_and_no_lost_end_gives_other_content(tmp_path):
  path = tmp_path / "a.json"
  files.write_sealed(path, CONTENT)
  whole = path.read_bytes()
  damaged = [whole[:length] for length in range(len(whole) - 2)]
  for place in range(len(whole)):
    for bit in range(8):
      content = bytearray(whole)
      content[place] ^= 1 << bit
      damaged.append(bytes(content))
  for content in random.Random(0).sample(damaged, 300):
    path.write_bytes(content)
    try:
      found, checked = files.read_sealed(path)
    except files.DamageError:
      continue
    # The damage hit whitespace, or the name of the seal: then the content is
    # not verified.
    assert (found == CONTENT and checked) or (
      found.keys() > CONTENT.keys() and not checked
    )


@pytest.mark.parametrize(
  "content", [b"", b"null", b"3", b"[]", b'"a"', b"{", b"\xff", b"[" * 10**5]
)
def test_other_than_an_object_is_damage(tmp_path, content):
  path = tmp_path / "a.json"
  path.write_bytes(content)
  with pytest.raises(files.DamageError):
    files.read_sealed(path)


def test_missing_file_is_no_damage(tmp_path):
  with pytest.raises(FileNotFoundError):
    files.read_sealed(tmp_path / "a.json")
  assert not files.exists(tmp_path / "a.json")


def test_a_name_that_cannot_be_looked_up_is_not_called_missing(tmp_path):
  os.symlink("loop", tmp_path / "loop")
  with pytest.raises(OSError, match="symbolic links"):
    files.exists(tmp_path / "loop")


@pytest.mark.parametrize(
  "error",
  [
    KeyError("x"),
    # As of Pillow for an image that it cannot decode: without a number.
    OSError("cannot identify image file"),
    OSError(errno.EIO, "Input/output error", "/some/record"),
  ],
  ids=["KeyError", "no number", "other file"],
)
def test_an_error_of_the_block_leaves_the_old_file_and_is_raised_as_it_is(
  tmp_path, error
):
  path = tmp_path / "file"
  path.write_bytes(b"old")

  def fail():
    with files.replacing(path) as file:
      file.write(b"half of the new")
      raise error

  with pytest.raises(type(error)) as found:
    fail()
  assert found.value is error
  assert path.read_bytes() == b"old"
  assert [p.name for p in tmp_path.iterdir()] == ["file"]
