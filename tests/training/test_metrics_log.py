import json
import math
import os
import resource
import threading

import pytest

from robust_info.training import metrics_log


def row(step, kind="train", **values):
  return {"kind": kind, "step": step, **values}


def write(path, rows, after_step=None):
  with metrics_log.MetricsWriter(path, after_step=after_step) as log:
    for item in rows:
      log.write(item)


def test_rows_come_back_exactly(tmp_path):
  rows = [row(1, loss=0.1 + 0.2), row(2, kind="validation", accuracy=1.0)]
  write(tmp_path, rows)
  assert metrics_log.read_rows(tmp_path / "metrics.jsonl") == rows


def test_missing_file_has_no_rows(tmp_path):
  assert metrics_log.read_rows(tmp_path / "metrics.jsonl") == []


def test_resuming_drops_rows_past_the_step(tmp_path):
  write(tmp_path, [row(step) for step in (1, 2, 3, 4)])
  write(tmp_path, [row(3, again=1.0)], after_step=2)
  rows = metrics_log.read_rows(tmp_path / "metrics.jsonl")
  assert rows == [row(1), row(2), row(3, again=1.0)]


def test_starting_from_nothing_drops_every_row(tmp_path):
  write(tmp_path, [row(0), row(1)])
  write(tmp_path, [row(0, again=1.0)])
  rows = metrics_log.read_rows(tmp_path / "metrics.jsonl")
  assert rows == [row(0, again=1.0)]


def test_line_cut_short_by_a_kill_is_dropped(tmp_path):
  write(tmp_path, [row(1), row(2)])
  path = tmp_path / "metrics.jsonl"
  path.write_text(path.read_text()[:-8])
  assert metrics_log.read_rows(path) == [row(1)]
  write(tmp_path, [row(2)], after_step=1)
  assert metrics_log.read_rows(path) == [row(1), row(2)]


def test_damage_in_the_middle_is_named(tmp_path):
  path = tmp_path / "metrics.jsonl"
  whole = json.dumps(row(1, loss=2.0))
  path.write_text(f"{whole}\nnonsense\n{whole}\n")
  with pytest.raises(ValueError, match=r"line 2 of .*metrics.jsonl"):
    metrics_log.read_rows(path)


@pytest.mark.parametrize(
  "line",
  [
    b"null",
    b"[]",
    b"3",
    b"{}",
    b'{"kind": "train"}',
    b'{"step": 1}',
    b'{"kind": "train", "step": "1"}',
    b'{"kind": "train", "step": null}',
    b'{"kind": 3, "step": 1}',
    b'{"kind": "train", "step": 1, "loss": "2.0"}',
    b'{"kind": "train", "step": 1, "loss": [2.0]}',
  ],
)
def test_line_that_is_no_row_is_named_wherever_it_is(tmp_path, line):
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(b'{"kind": "train", "step": 0}\n' + line)
  for call in (
    lambda: metrics_log.read_rows(path),
    lambda: metrics_log.MetricsWriter(tmp_path, after_step=1),
  ):
    with pytest.raises(ValueError, match=r"line 2 of .*metrics.jsonl") as error:
      call()
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_a_damaged_line(tmp_path):
  path = tmp_path / "metrics.jsonl"
  whole = json.dumps(row(1)).encode()
  path.write_bytes(whole + b"\n\xff" + whole + b"\n" + whole)
  with pytest.raises(ValueError, match="line 2 of"):
    metrics_log.read_rows(path)


def test_log_that_cannot_be_read_is_not_an_empty_one(tmp_path):
  os.symlink("metrics.jsonl", tmp_path / "metrics.jsonl")
  with pytest.raises(OSError, match="symbolic links"):
    metrics_log.read_rows(tmp_path / "metrics.jsonl")


def test_numbers_that_are_not_finite_are_valid_json_and_come_back_nan(
  tmp_path,
):
  write(tmp_path, [row(1, loss=math.nan, norm=math.inf, accuracy=0.5)])
  text = (tmp_path / "metrics.jsonl").read_text()
  assert "NaN" not in text
  assert "Infinity" not in text
  (read,) = metrics_log.read_rows(tmp_path / "metrics.jsonl")
  assert math.isnan(read["loss"])
  assert math.isnan(read["norm"])
  assert read["accuracy"] == 0.5


def test_flush_makes_rows_visible_to_others(tmp_path):
  with metrics_log.MetricsWriter(tmp_path, after_step=None) as log:
    log.write(row(1, loss=2.0))
    log.flush()
    assert metrics_log.read_rows(tmp_path / "metrics.jsonl") == [
      row(1, loss=2.0)
    ]


def test_tensorboard_files_hold_the_scalars_and_hide_replayed_steps(tmp_path):
  from tensorboardX.proto import event_pb2

  write(tmp_path, [row(1, loss=2.0), row(2, kind="validation", cckl=3.0)])
  write(tmp_path, [row(2, kind="validation", cckl=4.0)], after_step=1)
  events = []
  for path in sorted((tmp_path / "tensorboard").iterdir()):
    events += read_events(path, event_pb2)
  scalars = [
    (value.tag, event.step, value.simple_value)
    for event in events
    for value in event.summary.value
  ]
  assert scalars == [
    ("train/loss", 1, 2.0),
    ("validation/cckl", 2, 3.0),
    ("validation/cckl", 2, 4.0),
  ]
  starts = [
    event.step
    for event in events
    if event.session_log.status == event_pb2.SessionLog.START
  ]
  # Without a resume everything before is hidden, then everything past step 1.
  assert starts == [0, 2]


def test_no_thread_runs_beside(tmp_path):
  before = set(threading.enumerate())
  with metrics_log.MetricsWriter(tmp_path, after_step=None) as log:
    log.write(row(1, loss=2.0))
    assert set(threading.enumerate()) == before


def test_an_error_names_what_cannot_be_written(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(28, "No space left on device")

  writer = metrics_log.event_file_writer.EventsWriter
  log = metrics_log.MetricsWriter(tmp_path, after_step=None)
  with monkeypatch.context() as patch:
    patch.setattr(writer, "flush", full)
    with pytest.raises(OSError, match=r"No space left.*tensorboard"):
      log.flush()
  with monkeypatch.context() as patch:
    patch.setattr(
      metrics_log.event_file_writer.EventsWriter, "write_event", full
    )
    with pytest.raises(OSError, match=r"No space left.*tensorboard"):
      log.write(row(1, loss=2.0))
  log.close()
  log = metrics_log.MetricsWriter(tmp_path, after_step=None)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  # As on a full disk.
  resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
  try:
    log._file.write("a line")
    with pytest.raises(OSError, match=r"File too large: '.*tensorboard'"):
      log.close()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log._events.close()


def read_events(path, event_pb2):
  """Reads the TFRecord framing: length, its CRC, payload, its CRC."""
  content, events = path.read_bytes(), []
  while content:
    size = int.from_bytes(content[:8], "little")
    event = event_pb2.Event()
    event.ParseFromString(content[12 : 12 + size])
    events.append(event)
    content = content[12 + size + 4 :]
  return events
