"""Pictures of examples: as passed in, legible, with predictions marked."""

import itertools

import figure_checks
import numpy as np
import pytest

from robust_info.report import figures
from robust_info.report.figures import style


@pytest.fixture
def drawn(monkeypatch):
  """The figures that were written."""
  return figure_checks.record(monkeypatch)


def make_examples(num_runs, num_examples, shape, num_classes=10, seed=0):
  rng = np.random.default_rng(seed)
  stack = (num_runs, num_examples)
  images = rng.uniform(0.2, 0.8, (num_examples, *shape))
  eigenvectors = rng.normal(size=(*stack, *shape))
  adversarial = images + 0.1 * np.sign(eigenvectors)
  clean = rng.dirichlet(np.full(num_classes, 0.2), stack)
  attacked = rng.dirichlet(np.full(num_classes, 0.2), stack)
  return [images, eigenvectors, adversarial, clean, attacked]


def draw_examples(arrays, path, *, label_names=None, run_names=None, **kwargs):
  num_runs, num_examples, num_classes = np.shape(arrays[3])
  options = {
    "labels": [0] * num_examples,
    "label_names": label_names or [str(i) for i in range(num_classes)],
    "run_names": run_names or [f"run {i}" for i in range(num_runs)],
    "threat": "PGD-20, linf 0.1",
  }
  return figures.examples(*arrays, path, **(options | kwargs))


@pytest.mark.parametrize(
  ("num_runs", "num_examples", "shape"),
  [
    (1, 1, (8, 8, 1)),
    (1, 6, (28, 28, 1)),
    (4, 6, (32, 32, 3)),
    (2, 3, (8, 24, 3)),
  ],
)
def test_examples_are_written_and_legible(
  num_runs, num_examples, shape, tmp_path, drawn
):
  path = draw_examples(
    make_examples(num_runs, num_examples, shape),
    tmp_path / "f.png",
    label_names=figure_checks.WORDS,
    run_names=[figure_checks.LONG.format(i) for i in range(num_runs)],
  )
  figure_checks.assert_png(path)
  figure_checks.assert_legible(drawn[0])
  assert len(drawn[0].axes) == 4 * num_runs * num_examples


def test_examples_of_a_hundred_classes_with_long_names_are_legible(
  tmp_path, drawn
):
  draw_examples(
    make_examples(2, 5, (32, 32, 3), num_classes=100),
    tmp_path / "f.png",
    label_names=[f"a class with a long name, number {i}" for i in range(100)],
  )
  figure_checks.assert_legible(drawn[0])


def test_examples_show_what_was_handed_over(tmp_path, drawn):
  arrays = make_examples(2, 3, (8, 8, 1))
  images, eigenvectors, adversarial = arrays[:3]
  draw_examples(arrays, tmp_path / "f.png")
  axes = np.array(drawn[0].axes).reshape(2, 4, 3)
  for run, column in itertools.product(range(2), range(3)):
    image, vector, perturbation, attacked = (
      a.get_images()[0] for a in axes[run, :, column]
    )
    np.testing.assert_allclose(image.get_array()[..., :1], images[column])
    np.testing.assert_allclose(
      attacked.get_array()[..., :1], adversarial[run, column]
    )
    # The largest perturbation, 0.1, is magnified to half the grey scale.
    np.testing.assert_allclose(
      perturbation.get_array()[..., :1],
      0.5 + 5 * (adversarial[run, column] - images[column]),
      atol=1e-12,
    )
    flat = eigenvectors[run, column, ..., 0]
    np.testing.assert_allclose(vector.get_array(), flat)
    bound = np.abs(flat).max()
    assert vector.get_clim() == (-bound, bound)
  notes = [text.get_text() for text in figure_checks.texts_of(drawn[0])]
  assert "PGD-20, linf 0.1; perturbations magnified 5 times" in notes


def test_wrong_predictions_are_marked(tmp_path, drawn):
  arrays = make_examples(1, 2, (8, 8, 1), num_classes=3)
  arrays[3] = np.array([[[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]])
  arrays[4] = np.array(
    [
      [
        [0.0, 1.0, 0.0],
        [figure_checks.NAN, figure_checks.NAN, figure_checks.NAN],
      ]
    ]
  )
  draw_examples(arrays, tmp_path / "f.png", label_names=["ant", "bee", "cat"])
  axes = np.array(drawn[0].axes).reshape(4, 2)
  assert axes[0, 0].get_xlabel() == "ant 70%"
  assert axes[0, 1].get_xlabel() == "✗ cat 60%"
  assert axes[3, 0].get_xlabel() == "✗ bee 100%"
  assert axes[3, 1].get_xlabel() == "not a number"
  assert axes[0, 0].xaxis.label.get_color() != style.ALARM
  assert axes[0, 1].xaxis.label.get_color() == style.ALARM


@pytest.mark.parametrize("index", range(5))
def test_examples_survive_what_is_not_a_number(index, tmp_path, drawn):
  arrays = make_examples(1, 2, (8, 8, 3))
  arrays[index] = np.full_like(arrays[index], figure_checks.NAN)
  figure_checks.assert_png(draw_examples(arrays, tmp_path / "f.png"))
  figure_checks.assert_legible(drawn[0])


def test_an_attack_that_changed_nothing_is_drawn(tmp_path):
  arrays = make_examples(1, 2, (8, 8, 1))
  arrays[1] = np.zeros_like(arrays[1])
  arrays[2] = arrays[0][None].copy()
  figure_checks.assert_png(draw_examples(arrays, tmp_path / "f.png"))


@pytest.mark.parametrize(
  ("index", "name"),
  [
    (1, "eigenvectors"),
    (2, "adversarial"),
    (3, "probabilities"),
    (4, "adversarial_probabilities"),
  ],
)
def test_examples_of_other_shapes_are_refused(index, name, tmp_path):
  arrays = make_examples(2, 3, (8, 8, 1))
  good = list(arrays)
  arrays[index] = arrays[index][:1]
  with pytest.raises(ValueError, match=f"Expected {name} of shape"):
    figures.examples(
      *arrays,
      tmp_path / "f.png",
      labels=[0] * 3,
      label_names=list("0123456789"),
      run_names=["a", "b"],
      threat="",
    )
  with pytest.raises(ValueError, match="Expected labels of shape"):
    draw_examples(good, tmp_path / "f.png", labels=[0, 1])


def test_images_of_two_channels_are_refused(tmp_path):
  with pytest.raises(ValueError, match="1 or 3"):
    draw_examples(make_examples(1, 2, (8, 8, 2)), tmp_path / "f.png")
