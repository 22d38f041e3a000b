"""Data of one's own: arrays, folders of pictures, Parquet files."""

import dataclasses
import io
import json
import os
import shutil
import struct
import sys
import zlib

import numpy as np
import PIL.Image
import pytest

from robust_info import config as config_lib
from robust_info import data, report, training
from robust_info.data import own, pictures
from robust_info.evaluation import validation
from robust_info.training import setup, workdir

NAMES = ("ant", "bee", "cow")
Y = np.arange(60) % 3


def picture(i, shape=(6, 5, 3)):
  return np.random.default_rng(i).integers(0, 256, shape).astype(np.uint8)


X = np.stack([picture(i) for i in range(60)])


def deep_png(pixels):
  """A PNG with 16 bits per colour channel; Pillow reads but cannot write it."""
  height, width, _ = pixels.shape
  rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
  chunks = {
    b"IHDR": struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0),
    b"IDAT": zlib.compress(rows),
    b"IEND": b"",
  }
  return b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(body))
    + kind
    + body
    + struct.pack(">I", zlib.crc32(kind + body))
    for kind, body in chunks.items()
  )


def encoded(pixels, kind="png", mode=None, **options):
  buffer = io.BytesIO()
  PIL.Image.fromarray(pixels, mode).save(buffer, kind, **options)
  return buffer.getvalue()


def as_npy(array):
  buffer = io.BytesIO()
  np.save(buffer, array)
  return buffer.getvalue()


def make_folder(path, rows=range(60), make=picture, suffix="png"):
  for i in rows:
    home = path / NAMES[Y[i]]
    home.mkdir(parents=True, exist_ok=True)
    (home / f"{i:03}.{suffix}").write_bytes(encoded(make(i)))
  return path


@pytest.fixture
def load(tmp_path):
  def load(name, path, **kwargs):
    kwargs = {"cache_dir": tmp_path / "cache", "progress": False} | kwargs
    return data.load(name, path=path, **kwargs)

  return load


def refusal(call, *args, **kwargs):
  """The message of a refused call, which is one line."""
  with pytest.raises((ValueError, TypeError, data.UnavailableError)) as error:
    call(*args, **kwargs)
  text = str(error.value)
  assert "\n" not in text
  assert len(text) < 500
  return text


def same(one, other):
  for role in ("train", "validation", "test"):
    left, right = getattr(one, role), getattr(other, role)
    np.testing.assert_array_equal(left.images, right.images)
    np.testing.assert_array_equal(left.labels, right.labels)
  names = ("num_classes", "image_shape", "version", "label_names")
  return all(getattr(one, name) == getattr(other, name) for name in names)


def test_names_of_the_configuration_are_the_kinds():
  assert own.KINDS == config_lib.OWN


def test_memory_and_file_give_the_same_data(load, tmp_path, capfd):
  np.savez(tmp_path / "a.npz", x=X, y=Y.astype(np.uint8))
  found = data.from_arrays(X, Y.astype(">i8"))
  assert same(found, load("arrays", tmp_path / "a.npz", progress=True))
  lines = capfd.readouterr().err.splitlines()
  assert len(lines) == 2  # One for each.
  assert "12 of 60 examples are held out" in lines[0]
  splits = (found.train, found.validation, found.test)
  assert [len(split) for split in splits] == [43, 5, 12]
  np.testing.assert_array_equal(np.bincount(found.test.labels), [4, 4, 4])
  known = {image.tobytes(): label for image, label in zip(X, Y, strict=True)}
  for split in splits:
    for image, label in zip(split.images, split.labels, strict=True):
      assert known.pop(image.tobytes()) == label
  assert not known
  # The test part does not depend on the choice of validation examples.
  other = data.from_arrays(X, Y, validation_seed=1, progress=False)
  np.testing.assert_array_equal(found.test.images, other.test.images)
  assert found.version == other.version


def test_a_test_part_alone_serves_evaluation_only(load, tmp_path, capfd):
  found = data.from_arrays(x_test=X, y_test=Y)
  assert (found.train, found.validation, len(found.test)) == (None, None, 60)
  assert "the data serve evaluation only" in capfd.readouterr().err
  np.savez(tmp_path / "own.npz", x_test=X, y_test=Y)
  make_folder(tmp_path / "pictures" / "test")
  for name, path in (("arrays", "own.npz"), ("image_folder", "pictures")):
    loaded = load(name, tmp_path / path)
    assert loaded.train is None
    assert len(loaded.test) == 60
  message = refusal(setup.resolve, config_lib.Config(), found)
  assert "Expected data with a training part" in message


def test_given_parts_are_used_and_a_class_may_be_absent_from_one(capfd):
  found = data.from_arrays(
    X[:40],
    Y[:40],
    x_validation=X[40:50],
    y_validation=Y[40:50],
    x_test=X[51::3],
    y_test=Y[51::3],
    label_names=NAMES,
  )
  np.testing.assert_array_equal(found.train.images, X[:40])
  np.testing.assert_array_equal(found.validation.labels, Y[40:50])
  assert set(found.test.labels) == {0}
  assert found.label_names == NAMES
  only = data.from_arrays(
    X[:40], Y[:40], x_validation=X[40:], y_validation=Y[40:], progress=False
  )
  np.testing.assert_array_equal(only.test.images, X[40:])
  assert capfd.readouterr().err == ""


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_bytes_as_floats_come_back_and_other_floats_are_rounded_aloud(
  dtype, capfd
):
  levels = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
  y = [0, 1, 0, 1]
  parts = {"x_test": levels, "y_test": np.array(y), "validation_fraction": 0.5}
  found = data.from_arrays((levels / 255).astype(dtype), y, **parts)
  assert same(found, data.from_arrays(levels, y, **parts))
  assert found.image_shape == (8, 8, 1)
  assert capfd.readouterr().err == ""
  data.from_arrays(((levels + 0.3) / 256).astype(dtype), y, **parts)
  assert "x holds other floats than multiples" in capfd.readouterr().err


def test_version_is_that_of_the_content():
  base = data.from_arrays(X, Y, progress=False).version
  for x, y, names in (
    (np.where(X[7, 0, 0, 0] == X, X ^ 1, X), Y, None),
    (X, np.roll(Y, 1), None),
    (X[::-1], Y[::-1], None),
    (X, Y, NAMES),
  ):
    other = data.from_arrays(x, y, label_names=names, progress=False)
    assert other.version != base


def test_version_tells_names_apart_that_hold_line_breaks():
  versions = {
    data.from_arrays(X, Y, label_names=names, progress=False).version
    for names in (("a\nb", "c", "d"), ("a", "b\nc", "d"), ("a", "b", "c\nd"))
  }
  assert len(versions) == 3


@pytest.mark.parametrize("num_classes", [2, 1000])
def test_few_and_many_classes_load(num_classes):
  y = np.arange(4 * num_classes + 42) % num_classes
  x = np.arange(len(y) * 6).reshape(-1, 2, 3).astype(np.uint8)
  assert data.from_arrays(x, y, progress=False).num_classes == num_classes


def test_validation_examples_of_one_class_serve_no_run():
  one = Y[:9] * 0
  source = data.from_arrays(
    X,
    Y,
    x_validation=X[:9],
    y_validation=one,
    x_test=X,
    y_test=Y,
    progress=False,
  )
  with pytest.raises(
    ValueError, match="Expected validation examples of at lea"
  ):
    validation.of_run(config_lib.Config(), source)
  with pytest.raises(ValueError, match=r"two classes, got none; take more"):
    data.check_two_classes(Y[:0], split="test")


@pytest.mark.parametrize(
  ("num_classes", "each", "number", "expected"),
  [
    (2, 500, 501, None),  # No different from a random choice by its classes.
    (2, 500, 30, (1, 2)),
    (10, 100, 150, (2, 10)),
    (10, 100, 550, (6, 10)),
    (300, 3, 100, (34, 85)),
    (300, 3, 900, None),
  ],
)
def test_only_sorted_data_begin_with_too_few_classes(
  num_classes, each, number, expected
):
  labels = np.repeat(np.arange(num_classes), each)
  assert data.classes_at_first(labels, number) == expected
  generator = np.random.default_rng(0)
  for first in (1, 10, number):
    for _ in range(50):
      shuffled = generator.permutation(labels)
      assert data.classes_at_first(shuffled, first) is None


def test_class_with_one_example_keeps_it():
  y = np.array([0] * 25 + [1] * 24 + [2])
  found = data.from_arrays(X[:50], y, progress=False)
  assert [2 in s.labels for s in (found.train, found.validation, found.test)]
  assert 2 in found.train.labels


ALIKE = (("ant", "Train"), ("bee", "Test"))
BAD = X / 255.0
BAD[3, 2, 1, 0] = np.nan


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"x": X.astype(int)}, "got dtype=int64; for integers in [0, 255] use"),
    ({"x": X.astype(object)}, "Expected x as uint8, or as floats"),
    ({"x": X[:, 0, 0]}, "Expected x of shape [N, H, W]"),
    ({"x": np.moveaxis(X, -1, 1)}, "use numpy.moveaxis(x, 1, -1)"),
    ({"x": X[..., :2]}, "1, 3 or 4 channels, got shape (60, 6, 5, 2)"),
    ({"x": X[:0]}, "at least one image, got shape (0, 6, 5, 3)"),
    ({"x": X % 2}, "got no value above 1"),
    ({"x": BAD}, "got nan in x[3, 2, 1, 0]; correct or leave out"),
    ({"x": X > 99}, "got dtype=bool; use x.astype(numpy.float32)."),
    ({"x": X * 1.0}, "]; divide by 255 if x lies in [0, 255]."),
    ({"x": X / 127.5 - 1}, "]; use (x + 1) / 2 if x lies in [-1, 1]."),
    ({"x": X / 255 + 1e-7}, "]; use numpy.clip(x, 0, 1) if it overshoots"),
    ({"x": X / 255 + 1e-7}, "Expected x in [0, 1], got 1.0000001 in x["),
    ({"y": Y[:-1]}, "got 59 labels and 60 images"),
    ({"y": Y * 1.0}, "Expected y of integer labels, got dtype=float64"),
    ({"y": np.array(NAMES)[Y]}, "numpy.unique(y, return_inverse=True)[1]"),
    ({"y": np.eye(3, dtype=int)[Y]}, "got shape (60, 3); use argmax(axis=1)"),
    ({"y": Y[:, None]}, "use y[:, 0]"),
    ({"y": Y - 1}, "Expected y >= 0, got y[0]=-1 (20 of 60 are negative)"),
    ({"y": Y + 1}, "no example of 0; number them from 0"),
    ({"y": Y.astype("u8") + 2**63}, "no example of 0; number them from 0"),
    ({"y": Y * 0}, "at least two classes, got only class '0'"),
    ({"y": np.arange(60)}, "leave none of class 0 behind; give x_test and"),
    ({"x_test": X}, "Expected x_test and y_test, got no y_test"),
    ({"x_test": X[:, :4], "y_test": Y}, "(6, 5, 3) in x, (4, 5, 3) in x_test"),
    ({"label_names": NAMES[:2]}, "got 2 names and the label 2"),
    ({"label_names": ("a", "b", "a")}, "got 'a' twice"),
  ],
)
def test_bad_arrays_are_one_line_in_memory_and_in_a_file(
  load, tmp_path, change, message
):
  given = {"x": X, "y": Y} | change
  x, y = given.pop("x"), given.pop("y")
  assert message in refusal(data.from_arrays, x, y, progress=False, **given)
  if x.dtype != object:
    np.savez(tmp_path / "a.npz", x=x, y=y, **given)
    line = refusal(load, "arrays", tmp_path / "a.npz")
    assert line.startswith(f"Cannot use path={tmp_path}/a.npz: Expected ")
    assert message in line


@pytest.mark.parametrize("masked", ["x", "y"])
def test_masked_entries_are_not_taken_for_data(masked):
  given = {"x": X, "y": Y}
  given[masked] = np.ma.masked_array(given[masked], given[masked] == 2)
  line = refusal(data.from_arrays, given["x"], given["y"], progress=False)
  assert f"Expected {masked} without masked entries, got " in line


@pytest.mark.parametrize(
  ("write", "message"),
  [
    (lambda p: p.write_bytes(b"nonsense"), "never loaded"),
    (lambda p: p.write_bytes(b""), "no readable .npz file"),
    (lambda p: np.savez(p, x=X[0, 0, 0].astype(object)), "never loaded"),
    (lambda p: np.savez(p, X=X, labels=Y), "got 'X', 'labels'; save it"),
    (lambda p: np.savez(p, x=X), "got no y, only x"),
    (lambda p: p.write_bytes(as_npy(X)), "one array without a name"),
    (lambda p: p.mkdir(), "expected an .npz file, got a folder"),
  ],
)
def test_unusable_files_are_one_line(load, tmp_path, write, message):
  write(tmp_path / "a.npz")
  line = refusal(load, "arrays", tmp_path / "a.npz")
  assert message in line
  assert f"path={tmp_path}/a.npz" in line


def test_truncated_file_is_one_line(load, tmp_path):
  path = tmp_path / "a.npz"
  np.savez(path, x=X, y=Y)
  path.write_bytes(path.read_bytes()[:-400])
  assert "no readable .npz file" in refusal(load, "arrays", path)


def test_file_that_may_not_be_read_is_no_damaged_one(
  load, tmp_path, monkeypatch
):
  path = tmp_path / "a.npz"
  np.savez(path, x=np.zeros((2, 4, 4)), y=[0, 1])

  def refuse(*_, **unused):
    raise PermissionError(13, "Permission denied", str(path))

  monkeypatch.setattr(np, "load", refuse)
  line = refusal(load, "arrays", path)
  assert "Permission denied" in line
  assert "save it again" not in line


@pytest.mark.parametrize(
  ("name", "fields", "message"),
  [
    ("arrays", {"path": None}, "Expected path of the file or folder"),
    ("arrays", {"path": "gs://bucket/a.npz"}, "Expected path to be local"),
    ("parquet", {"path": "/no/such"}, "got path=/no/such; give the place"),
    ("arrays", {"path": "/", "image_size": 8}, "resize the arrays"),
    ("parquet", {"path": "/", "image_size": 0}, "image_size >= 1"),
    ("arrays", {"path": "/", "label_column": "y"}, "no label_column with"),
    ("digits", {"path": None, "label_column": "y"}, "no label_column with"),
    ("parquet", {"path": "/", "label_column": 0}, "label_column to be a str"),
    ("arrays", {"path": "/", "streaming": True}, "Expected no streaming"),
    ("digits", {"path": "/"}, "Expected no path with name='digits'"),
  ],
)
def test_bad_arguments_are_named(load, name, fields, message):
  assert message in refusal(load, name, **fields)


def test_folder_and_arrays_hold_the_same_pictures_and_are_decoded_once(
  load, tmp_path, monkeypatch
):
  source = load("image_folder", make_folder(tmp_path / "f"))
  order = np.argsort(Y, kind="stable")
  expected = data.from_arrays(X[order], Y[order], progress=False)
  np.testing.assert_array_equal(source.train.images, expected.train.images)
  np.testing.assert_array_equal(source.test.labels, expected.test.labels)
  assert source.label_names == NAMES
  before = source.version
  monkeypatch.setattr(pictures, "reader", None)
  assert same(source, load("image_folder", tmp_path / "f"))
  monkeypatch.undo()
  (tmp_path / "f/ant/000.png").write_bytes(encoded(picture(99)))
  assert load("image_folder", tmp_path / "f").version != before


def test_folders_of_splits_are_used_and_grey_needs_all_grey(load, tmp_path):
  def grey(i):
    return picture(i)[..., 0]

  make_folder(tmp_path / "f/train", range(30), grey)
  make_folder(tmp_path / "f/val", range(30, 40), grey)
  make_folder(tmp_path / "f/test", [39, 40], grey)  # No cow.
  (tmp_path / "f/train/ant/.DS_Store").write_text("x")
  (tmp_path / "f/README.md").write_text("x")
  source = load("image_folder", tmp_path / "f")
  splits = (source.train, source.validation, source.test)
  assert [len(split) for split in splits] == [30, 10, 2]
  assert source.image_shape == (6, 5, 1)
  np.testing.assert_array_equal(source.test.images[1, ..., 0], grey(40))
  make_folder(tmp_path / "f/train", [57])
  again = load("image_folder", tmp_path / "f")
  assert again.image_shape == (6, 5, 3)
  np.testing.assert_array_equal(again.test.images[1, ..., 2], grey(40))


def test_pictures_are_resized_by_the_shorter_side_and_cropped(load, tmp_path):
  def wide(i):
    return picture(i, (8, 8 + 2 * (i % 3), 3))

  path = make_folder(tmp_path / "f", make=wide)
  line = refusal(load, "image_folder", path)
  assert "pictures of 3 sizes" in line
  assert "set for example image_size=8" in line
  source = load("image_folder", path, image_size=4)
  assert source.image_shape == (4, 4, 3)
  resized = PIL.Image.fromarray(wide(2)).resize((6, 4), 2)
  shown = {image.tobytes() for image in source.train.images}
  shown |= {image.tobytes() for image in source.test.images}
  shown |= {image.tobytes() for image in source.validation.images}
  assert np.asarray(resized)[:, 1:5].tobytes() in shown


def test_sizes_of_the_same_pictures_do_not_evict_each_other(
  load, tmp_path, monkeypatch
):
  path = make_folder(tmp_path / "f")
  sources = {
    size: load("image_folder", path, image_size=size) for size in (3, 4)
  }
  monkeypatch.setattr(pictures, "reader", None)
  for size, source in sources.items():
    assert same(source, load("image_folder", path, image_size=size))


@pytest.mark.parametrize(
  ("content", "reason"),
  [
    (b"nonsense", "no PNG, JPEG or WebP picture"),
    (encoded(X[0])[:-30], "image file is trunc"),
    (encoded(np.zeros((6, 5), np.uint16)), "16 bits per channel"),
    (deep_png(np.zeros((6, 5, 3), np.uint16)), "16 bits per channel"),
    (encoded(np.zeros((6, 5, 4), np.uint8)), "transparent pixels"),
    (encoded(X[0], "bmp"), "no PNG, JPEG or WebP picture"),
  ],
)
def test_bad_pictures_are_listed_in_one_line(load, tmp_path, content, reason):
  path = make_folder(tmp_path / "f")
  for i in range(0, 15, 3):
    (path / f"ant/{i:03}.png").write_bytes(content)
  line = refusal(load, "image_folder", path)
  assert "cannot read 5 pictures: " in line
  assert f"ant/000.png ({reason}" in line
  assert "ant/006.png" in line
  assert " and 2 more; correct or remove them" in line


def test_classes_may_resemble_splits_among_many(load, tmp_path):
  path = make_folder(tmp_path / "f")
  for name in ("train_station", "test_tube"):
    shutil.copytree(path / "ant", path / name)
  found = load("image_folder", path)
  assert found.label_names == (*sorted(NAMES), "test_tube", "train_station")


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda p: (p / "ant/labels.csv").write_text("x"), "got 'ant/labels.csv'"),
    (lambda p: (p / "a.png").write_bytes(b""), "got 'a.png' in"),
    (lambda p: (p / "dog").mkdir(), "got none of 'dog'"),
    (lambda p: (p / "test").mkdir(), "either a folder per class or"),
    (lambda p: [os.rename(p / n, p / m) for n, m in ALIKE], "'Test', 'Train'"),
    (lambda p: os.rename(p / "ant", p / "a\udcff"), "got 'a\\udcff'; rename"),
    (lambda p: (p / "ant/up").symlink_to(p), "no link to a folder that it is"),
    (lambda p: [os.rename(p / n, p.parent / n) for n in NAMES], "got none"),
    (lambda p: [os.rename(p / n, p.parent / n) for n in NAMES[1:]], "'ant'"),
  ],
)
def test_unclear_folders_are_one_line(load, tmp_path, change, message):
  path = make_folder(tmp_path / "f", range(9))
  change(path)
  assert message in refusal(load, "image_folder", path)


def make_table(rows, *, image="image", column="label", label=None, names=NAMES):
  pa = pytest.importorskip("pyarrow")
  cells = [{"bytes": encoded(X[i]), "path": None} for i in rows]
  labels = pa.array(Y[list(rows)] if label is None else label)
  table = pa.table({image: cells, column: labels})
  features = {column: {"names": names, "_type": "ClassLabel"}}
  return table.replace_schema_metadata(
    {"huggingface": json.dumps({"info": {"features": features}})}
  )


def write_table(path, *args, **kwargs):
  table = make_table(*args, **kwargs)
  path.parent.mkdir(parents=True, exist_ok=True)
  pytest.importorskip("pyarrow.parquet").write_table(table, path)
  return path


@pytest.mark.parametrize("image", ["image", "img"])
def test_parquet_files_of_splits_are_used(load, tmp_path, image):
  data_dir = tmp_path / "set" / "data"
  for name, rows in (
    ("train-00000-of-00002", range(25)),
    ("train-00001-of-00002", range(25, 50)),
    ("test-00000-of-00001", range(50, 60)),
  ):
    write_table(data_dir / f"{name}.parquet", rows, image=image)
  source = load("parquet", tmp_path / "set")
  assert len(source.train) + len(source.validation) == 50
  np.testing.assert_array_equal(source.test.images, X[50:])
  np.testing.assert_array_equal(source.test.labels, Y[50:])
  assert source.label_names == NAMES
  one = load("parquet", write_table(tmp_path / "train.parquet", range(60)))
  np.testing.assert_array_equal(
    one.test.images, data.from_arrays(X, Y, progress=False).test.images
  )


def test_parquet_files_of_two_labels_serve_each_of_them(load, tmp_path):
  pa = pytest.importorskip("pyarrow")
  table = make_table(range(60), column="fine_label")
  table = table.append_column("coarse_label", pa.array(Y % 2))
  path = tmp_path / "cifar100.parquet"
  pytest.importorskip("pyarrow.parquet").write_table(table, path)
  for _ in range(2):  # The second time from the cache.
    fine = load("parquet", path, label_column="fine_label")
    expected = data.from_arrays(X, Y, progress=False)
    np.testing.assert_array_equal(fine.train.images, expected.train.images)
    np.testing.assert_array_equal(fine.train.labels, expected.train.labels)
    assert fine.label_names == NAMES
    coarse = load("parquet", path, label_column="coarse_label")
    expected = data.from_arrays(X, Y % 2, progress=False)
    np.testing.assert_array_equal(coarse.test.labels, expected.test.labels)
    assert coarse.label_names == ("0", "1")
  assert coarse.version != fine.version
  for wrong in (None, "", "coarse"):
    line = refusal(load, "parquet", path, label_column=wrong)
    assert "label_column=NAME" in line
  asked = config_lib.DataConfig(
    name="parquet", path=str(path), label_column="label"
  )
  line = refusal(data.from_config, asked, progress=False)
  assert "a column label of integers" in line
  assert "config.data.label_column=NAME" in line


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"image": "picture"}, "a column image or img"),
    ({"label": ["a"] * 9}, "label (string)"),
    ({"label": [0.5] * 9}, "label (double)"),
    ({"label": [0, 1, None] * 3}, "got none in 3 of 9 rows"),
    ({"label": [0, 1, -1] * 3}, "3 of 9 are negative"),
    ({"names": NAMES[:2]}, "got 2 names and the label 2"),
  ],
)
def test_other_tables_are_one_line(load, tmp_path, fields, message):
  path = write_table(tmp_path / "a.parquet", range(9), **fields)
  assert message in refusal(load, "parquet", path)


@pytest.mark.parametrize(
  "name", ["mnist_test", "Test", "testing", "test/a/0", "Val", "eval-0"]
)
def test_parquet_files_of_no_clear_split_are_refused(load, tmp_path, name):
  path = write_table(tmp_path / f"p/{name}.parquet", range(9))
  write_table(tmp_path / "p/mnist_train.parquet", range(9))
  line = refusal(load, "parquet", tmp_path / "p")
  assert f"train, validation or test, got {name}.parquet; rename it" in line
  path.rename(tmp_path / "p/contest.PARQUET")
  source = load("parquet", tmp_path / "p")
  assert sum(map(len, (source.train, source.validation, source.test))) == 18


def test_unreadable_parquet_files_are_one_line(load, tmp_path, monkeypatch):
  path = write_table(tmp_path / "p" / "a.parquet", range(9))
  write_table(tmp_path / "p" / "test.parquet", range(9))
  assert "or of none, to start with" in refusal(load, "parquet", path.parent)
  path.write_bytes(path.read_bytes()[:-9])
  assert "no readable Parquet file" in refusal(load, "parquet", path)
  (tmp_path / "empty").mkdir()
  assert "got none" in refusal(load, "parquet", tmp_path / "empty")
  monkeypatch.setitem(sys.modules, "pyarrow", None)
  assert 'pip install "robust_info[parquet]"' in refusal(load, "parquet", path)


def test_run_trains_resumes_and_is_evaluated_on_the_same_data_only(
  tmp_path, monkeypatch
):
  monkeypatch.setenv("ROBUST_INFO_CACHE", str(tmp_path / "cache"))
  np.savez(tmp_path / "a.npz", x=X, y=Y)
  np.savez(tmp_path / "b.npz", x=X[::-1], y=Y[::-1])

  def config(file):
    return config_lib.from_config_dict(
      {
        "data": {"name": "arrays", "path": str(tmp_path / file)},
        "model": {"name": "logistic"},
        "train": {"num_epochs": 1},
      }
    )

  def train(asked):
    source = data.from_config(asked.data, progress=False)
    resolved = setup.resolve(asked, source)
    assert validation.of_run(resolved, source)
    with open(os.devnull, "w") as silence:
      training.train(
        resolved,
        source.train,
        lambda variables: {"accuracy": 0.5, "robust_accuracy": 0.5},
        workdir=tmp_path / "run",
        stream=silence,
      )
    return source

  source = train(config("a.npz"))
  with pytest.raises(workdir.WorkdirError, match=r"data.version: '\w+', now"):
    train(config("b.npz"))
  run = training.restore_run(tmp_path / "run")
  assert run.config.data.version == source.version
  os.rename(tmp_path / "a.npz", tmp_path / "c.npz")
  line = refusal(data.from_config, run.config.data)
  assert "config.data.path to exist" in line
  assert "--data_path" in line
  moved = data.relocated(run.config.data, path=str(tmp_path / "c.npz"))
  assert same(data.from_config(moved, progress=False), source)
  other = dataclasses.replace(moved, path=str(tmp_path / "b.npz"))
  assert "the data have changed" in refusal(
    data.from_config, other, progress=False
  )
  changed = data.from_arrays(X[::-1], Y[::-1], progress=False)
  with pytest.raises(ValueError, match=f"arrays of version {source.version}"):
    report.build(
      [run], changed, run.config.evaluation, output=tmp_path / "report"
    )
  with pytest.raises(ValueError, match="Expected no --data_dir for a run on"):
    data.relocated(moved, data_dir="/")
