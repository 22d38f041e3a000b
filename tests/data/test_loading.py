"""Any TFDS data set: found, checked, decoded once, never served stale."""

import io
import shutil
import sys

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds
import toy_data

from robust_info import data
from robust_info.data import decoding, prepared


@pytest.fixture(scope="module")
def prepared_toy(tmp_path_factory):
  directory = tmp_path_factory.mktemp("tfds")
  toy_data.prepare(directory)
  return directory


@pytest.fixture
def toy(prepared_toy, tmp_path):
  """A private data_dir with the data set `toy`."""
  return shutil.copytree(prepared_toy, tmp_path / "tfds")


@pytest.fixture
def load(tmp_path):
  def load(name, data_dir, **kwargs):
    return data.load(
      name, data_dir=data_dir, cache_dir=tmp_path / "cache", **kwargs
    )

  return load


@pytest.fixture
def decodings(monkeypatch):
  """The directories that were decoded."""
  calls = []
  decode = decoding.decode

  def spy(directory, *args, **kwargs):
    calls.append(directory)
    return decode(directory, *args, **kwargs)

  monkeypatch.setattr(decoding, "decode", spy)
  return calls


def refusal(call, *args, **kwargs):
  """The message of a refused call, which is one line."""
  with pytest.raises(data.UnavailableError) as error:
    call(*args, **kwargs)
  assert "\n" not in str(error.value)
  return str(error.value)


def test_prepared_data_load_without_a_builder_in_tfds(toy, load):
  source = load("toy", toy)
  assert (source.name, source.version) == ("toy", "1.2.0")
  assert source.image_shape == (6, 5, 3)
  assert source.num_classes == 4
  assert source.label_names == ("cat", "dog", "owl", "yak")
  assert len(source.train) == 36
  assert len(source.validation) == 4
  assert "tensorflow" not in sys.modules


def test_images_and_labels_are_those_of_the_records_in_file_order(toy, load):
  source = load("toy", toy)
  expected = np.stack([toy_data.picture(i) for i in range(40, 50)])
  np.testing.assert_array_equal(source.test.images, expected)
  np.testing.assert_array_equal(source.test.labels, np.arange(40, 50) % 4)


def test_train_and_validation_partition_the_training_records(toy, load):
  source = load("toy", toy, validation_fraction=0.3)
  assert len(source.validation) == 12
  np.testing.assert_array_equal(np.bincount(source.validation.labels), [3] * 4)
  found = np.concatenate([source.train.images, source.validation.images])
  expected = {toy_data.picture(i).tobytes() for i in range(40)}
  assert {image.tobytes() for image in found} == expected
  assert len(found) == 40
  for split in (source.train, source.validation):
    for image, label in zip(split.images, split.labels, strict=True):
      assert image.tobytes() == toy_data.picture(index_of(image)).tobytes()
      assert label == index_of(image) % 4


def index_of(image):
  return next(
    i for i in range(40) if np.array_equal(image, toy_data.picture(i))
  )


def test_holdouts_differ_by_seed_and_share_one_decoding(toy, load, decodings):
  sources = [load("toy", toy, validation_seed=seed) for seed in (0, 1, 0)]
  images = [source.validation.images.tobytes() for source in sources]
  assert images[0] == images[2]
  assert images[0] != images[1]
  assert len(decodings) == 1


def test_data_are_decoded_once(toy, load, decodings):
  first, second = load("toy", toy), load("toy", toy)
  np.testing.assert_array_equal(first.train.images, second.train.images)
  assert isinstance(second.train.images.base, np.memmap)
  assert len(decodings) == 1


def test_a_warm_cache_needs_no_tfds(toy, load, monkeypatch):
  load("toy", toy)
  monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
  assert len(load("toy", toy).test) == 10


@pytest.mark.parametrize("part", ["holdout-4-0/train-images", "test-images"])
def test_damaged_arrays_are_rebuilt(toy, load, tmp_path, part):
  before = load("toy", toy)
  [path] = (tmp_path / "cache").rglob(f"{part}.npy")
  content = path.read_bytes()
  path.unlink()  # The file of `before` stays as it is.
  path.write_bytes(content[:-5])
  after = load("toy", toy)
  for split in ("train", "validation", "test"):
    np.testing.assert_array_equal(
      getattr(before, split).images, getattr(after, split).images
    )


def test_a_damaged_training_split_is_rebuilt_for_a_new_holdout(
  toy, load, tmp_path, decodings
):
  load("toy", toy)
  [entry] = (tmp_path / "cache" / "arrays" / "toy" / "1.2.0").iterdir()
  (entry / "train-images.npy").write_bytes(b"")
  load("toy", toy)  # This load does not read the damaged file.
  assert len(decodings) == 1
  assert len(load("toy", toy, validation_fraction=0.2).validation) == 8
  assert len(decodings) == 2


def test_a_changed_source_is_not_served_stale(toy, load, tmp_path, decodings):
  load("toy", toy)
  shutil.rmtree(toy / "toy")
  toy_data.prepare(
    toy,
    example=lambda i: {"image": PIL.Image.fromarray(toy_data.picture(i + 1))},
  )
  np.testing.assert_array_equal(
    load("toy", toy).test.images[0], toy_data.picture(41)
  )
  assert len(decodings) == 2
  # The arrays decoded from the old source are gone.
  assert len(list((tmp_path / "cache/arrays/toy/1.2.0").iterdir())) == 1


def test_a_source_that_changes_under_the_decoder_is_refused(
  toy, load, monkeypatch
):
  decode = decoding.decode

  def disturbed(directory, *args, **kwargs):
    (directory / "new-file").write_text("x")
    return decode(directory, *args, **kwargs)

  monkeypatch.setattr(decoding, "decode", disturbed)
  assert "changed while it was read" in refusal(load, "toy", toy)


def test_two_sources_of_one_name_do_not_evict_each_other(
  toy, load, tmp_path, decodings
):
  other = shutil.copytree(toy, tmp_path / "other")
  for data_dir in (toy, other, toy, other):
    load("toy", data_dir)
  assert len(decodings) == 2


def test_the_data_dir_is_only_read(toy, load):
  def state():
    return {p: p.stat().st_mtime_ns for p in [toy, *toy.rglob("*")]}

  before = state()
  load("toy", toy)
  assert state() == before


def test_the_environment_names_the_data_dir(toy, load, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(toy))
  assert len(load("toy", None).test) == 10


def test_the_highest_version_wins_unless_one_is_asked_for(toy, load):
  for version in ("1.10.0", "1.9.0"):
    copy = shutil.copytree(toy / "toy/1.2.0", toy / "toy" / version)
    info = copy / "dataset_info.json"
    info.write_text(info.read_text().replace("1.2.0", version))
  assert load("toy", toy).version == "1.10.0"
  assert load("toy:1.2.0", toy).version == "1.2.0"
  assert "found there: 1.10.0" in refusal(load, "toy:3.0.0", toy)


def test_a_configuration_is_part_of_the_name(toy, load):
  (toy / "named").mkdir()
  shutil.copytree(toy / "toy", toy / "named" / "blue")
  source = load("named/blue", toy)
  assert source.name == "named/blue"
  metadata = toy / "named" / ".config" / "metadata.json"
  metadata.parent.mkdir()
  metadata.write_text('{"default_config_name": "blue"}')
  assert len(load("named", toy).test) == len(source.test)


def test_a_validation_split_of_ones_own_is_used(load, tmp_path):
  toy_data.prepare(tmp_path, sizes={"train": 8, "validation": 6, "test": 4})
  source = load("toy", tmp_path)
  sizes = [len(s) for s in (source.train, source.validation, source.test)]
  assert sizes == [8, 6, 4]
  np.testing.assert_array_equal(
    source.validation.images[0], toy_data.picture(8)
  )


def test_without_a_test_split_the_validation_split_is_tested_on(load, tmp_path):
  toy_data.prepare(tmp_path, sizes={"train": 40, "validation": 6})
  source = load("toy", tmp_path)
  sizes = [len(s) for s in (source.train, source.validation, source.test)]
  assert sizes == [36, 4, 6]
  np.testing.assert_array_equal(source.test.images[0], toy_data.picture(40))


def encode(pixels, **options):
  buffer = io.BytesIO()
  PIL.Image.fromarray(pixels).save(buffer, **options)
  return buffer.getvalue()


def test_grey_pictures_among_colour_ones_become_colour(load, tmp_path):
  toy_data.prepare(
    tmp_path,
    example=lambda i: {
      "image": PIL.Image.fromarray(toy_data.picture(i)[..., 0])
    },
  )
  images = load("toy", tmp_path).test.images
  expected = np.repeat(toy_data.picture(40)[..., :1], 3, axis=-1)
  np.testing.assert_array_equal(images[0], expected)


def test_other_pictures_of_an_example_are_not_decoded(load, tmp_path):
  toy_data.prepare(
    tmp_path,
    thumbnail=tfds.features.Image(shape=(2, 2, 3)),
    example=lambda i: {"thumbnail": b"not an image"},
  )
  assert len(load("toy", tmp_path).test) == 10


def test_images_of_undeclared_but_equal_shape_load(load, tmp_path):
  toy_data.prepare(tmp_path, image=tfds.features.Image(encoding_format="png"))
  assert load("toy", tmp_path).image_shape == (6, 5, 3)


def test_varying_image_shapes_are_refused(load, tmp_path):
  toy_data.prepare(
    tmp_path,
    image=tfds.features.Image(encoding_format="png"),
    example=lambda i: {
      "image": PIL.Image.fromarray(toy_data.picture(i)[: 6 - (i == 7)])
    },
  )
  message = refusal(load, "toy", tmp_path)
  assert "varying shapes, (6, 5, 3) and (5, 5, 3)" in message


def test_images_of_other_than_bytes_are_refused(load, tmp_path):
  toy_data.prepare(
    tmp_path,
    image=tfds.features.Image(shape=(6, 5, 1), dtype=np.uint16),
    example=lambda i: {
      "image": encode(np.zeros((6, 5), np.uint16), format="png")
    },
  )
  assert "only uint8 images" in refusal(load, "toy", tmp_path)


@pytest.mark.parametrize(
  ("features", "found"),
  [
    ({"image": None, "text": tfds.features.Text()}, "label, text"),
    ({"label": None}, "got image"),
    ({"label": tfds.features.Scalar(dtype=np.int64)}, "image, label"),
  ],
)
def test_data_that_are_not_image_classification_are_refused(
  load, tmp_path, features, found
):
  keys = {"image", "label"} - {k for k, v in features.items() if v is None}

  class Only(toy_data.make_builder(**features), skip_registration=True):
    name = "only"

    def _generate_examples(self, start, stop):
      for i, content in super()._generate_examples(start, stop):
        kept = {key: content[key] for key in keys}
        yield i, kept | ({"text": "x"} if "text" in features else {})

  builder = Only(data_dir=tmp_path, file_format="array_record")
  builder.download_and_prepare()
  message = refusal(load, "only", tmp_path)
  assert "is not image classification" in message
  assert found in message


def test_withheld_labels_are_refused(load, tmp_path):
  toy_data.prepare(tmp_path, example=lambda i: {"label": -1 if i == 45 else 0})
  assert "labels outside [0, 4)" in refusal(load, "toy", tmp_path)


def test_data_without_a_test_split_are_refused(load, tmp_path):
  toy_data.prepare(tmp_path, sizes={"train": 8})
  assert "has no test split, only train" in refusal(load, "toy", tmp_path)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_data_without_a_training_split_serve_evaluation(load, tmp_path, split):
  # Corrupted and re-collected test sets come this way.
  toy_data.prepare(tmp_path, sizes={split: 8})
  for streaming in (False, True):
    found = load("toy", data_dir=tmp_path, streaming=streaming)
    assert (found.train, found.validation) == (None, None)
    assert len(found.test.labels) == 8
    assert found.image_shape == found.test.images.shape[1:]


@pytest.mark.parametrize(
  "damage",
  [
    lambda d: (d / "features.json").write_text("{"),
    lambda d: (d / "dataset_info.json").write_text("nonsense"),
    lambda d: next(d.glob("*train*")).write_bytes(b"no records"),
    lambda d: next(d.glob("*train*")).unlink(),
  ],
)
def test_broken_sources_are_one_line(toy, load, damage):
  damage(toy / "toy/1.2.0")
  assert "Cannot read data set" in refusal(load, "toy", toy)


def test_another_file_format_is_refused(toy, load):
  info = toy / "toy/1.2.0/dataset_info.json"
  info.write_text(info.read_text().replace("array_record", "tfrecord"))
  assert "not in array_record format" in refusal(load, "toy", toy)


def test_unknown_names_get_close_matches(toy, load, caplog):
  assert "did you mean mnist" in refusal(load, "mnst", toy)
  assert "did you mean toy" in refusal(load, "toyy", toy)
  assert "did you mean digits" in refusal(load, "digit", toy)
  message = refusal(load, "qqqqqqqqqqq", toy)
  assert "catalog" in message
  assert str(toy) in message
  assert caplog.text == ""


@pytest.mark.parametrize("name", ["mnist/nonesuch", "mnist:9.0.0"])
def test_unknown_configurations_and_versions_are_one_line(toy, load, name):
  assert f"Cannot load data set {name}" in refusal(load, name, toy)


def test_without_tensorflow_the_extra_is_named(
  tmp_path, load, monkeypatch, caplog, capfd
):
  monkeypatch.setattr(prepared, "_tensorflow_is_installed", lambda: False)
  (tmp_path / "empty").mkdir()
  message = refusal(load, "mnist", tmp_path / "empty")
  assert 'pip install "robust_info[prepare]"' in message
  assert f"data_dir={tmp_path / 'empty'}" in message
  assert caplog.text == ""
  assert capfd.readouterr() == ("", "")
  assert [*(tmp_path / "empty").iterdir()] == []


def test_without_tfds_the_extra_is_named(toy, load, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
  message = refusal(load, "toy", toy)
  assert 'pip install "robust_info[train]"' in message


class RobustInfoPreparable(toy_data.make_builder(), skip_registration=False):
  """A builder in the registry of TFDS, like its own."""

  name = "robust_info_preparable"


def test_with_tensorflow_data_are_prepared_as_array_record(
  tmp_path, load, monkeypatch, capfd
):
  monkeypatch.setattr(prepared, "_tensorflow_is_installed", lambda: True)
  (tmp_path / "tfds").mkdir()
  source = load("robust_info_preparable", tmp_path / "tfds")
  np.testing.assert_array_equal(source.test.images[0], toy_data.picture(40))
  assert capfd.readouterr().out == ""  # Standard output is for reports.


def test_a_failure_to_prepare_is_one_line(tmp_path, load, monkeypatch):
  def fail(*args, **kwargs):
    raise RuntimeError("no network\nand much more")

  monkeypatch.setattr(prepared, "_tensorflow_is_installed", lambda: True)
  monkeypatch.setattr(RobustInfoPreparable, "download_and_prepare", fail)
  (tmp_path / "tfds").mkdir()
  message = refusal(load, "robust_info_preparable", tmp_path / "tfds")
  assert message.endswith("failed: no network")


def test_progress_can_be_silenced(toy, load, capfd, monkeypatch):
  monkeypatch.setattr("robust_info.runtime.progress._SILENCE", 0.0)
  load("toy", toy)
  assert "decoding toy train: 40/40 images" in capfd.readouterr().err
  load("toy:1.2.0", shutil.copytree(toy, toy / "copy"), progress=False)
  assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
  ("name", "knobs", "error", "match"),
  [
    ("toy", {"validation_fraction": 0}, ValueError, "best checkpoint"),
    ("toy", {"validation_fraction": 1}, ValueError, "in (0, 1)"),
    ("toy", {"validation_fraction": -0.1}, ValueError, "in (0, 1)"),
    ("toy", {"validation_fraction": float("nan")}, ValueError, "in (0, 1)"),
    (
      "toy",
      {"validation_fraction": "0.1"},
      TypeError,
      "fraction='0.1' of type",
    ),
    ("toy", {"validation_fraction": 0.001}, ValueError, "0 of 40 examples"),
    ("toy", {"validation_fraction": 0.97}, ValueError, "none of class 0"),
    ("toy", {"validation_seed": -1}, ValueError, "validation_seed"),
    ("toy", {"validation_seed": 0.5}, TypeError, "validation_seed"),
    ("../toy", {}, ValueError, "name='../toy'"),
    ("huggingface:mnist", {}, ValueError, "name='huggingface:mnist'"),
    ("Toy Set", {}, ValueError, "name='Toy Set'"),
    ("", {}, ValueError, "name=''"),
    (3, {}, ValueError, "name=3"),
  ],
)
def test_bad_arguments_are_named(toy, load, name, knobs, error, match):
  with pytest.raises(error) as caught:
    load(name, toy, **knobs)
  assert match in str(caught.value)
  assert "\n" not in str(caught.value)


def test_remote_data_dirs_are_refused(load):
  with pytest.raises(ValueError, match="data_dir to be local"):
    load("toy", "gs://bucket/tfds")
