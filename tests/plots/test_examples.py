"""Pictures of examples: as passed in, legible, with predictions marked."""

import itertools

import figure_checks
import numpy as np
import pytest

import robust_info as ri
from robust_info.plots.drawing import style


def make_examples(num_runs, num_examples, shape, num_classes=10, seed=0):
  rng = np.random.default_rng(seed)
  stack = (num_runs, num_examples)
  images = rng.uniform(0.2, 0.8, (num_examples, *shape))
  eigenvectors = rng.normal(size=(*stack, *shape))
  adversarial = images + 0.1 * np.sign(eigenvectors)
  clean = rng.dirichlet(np.full(num_classes, 0.2), stack)
  attacked = rng.dirichlet(np.full(num_classes, 0.2), stack)
  return [images, eigenvectors, adversarial, clean, attacked]


def draw_examples(arrays, *, label_names=None, run_names=None, **kwargs):
  num_runs, num_examples, _ = np.shape(arrays[3])
  names = run_names or [f"run {i}" for i in range(num_runs)]
  images, *others = arrays
  eigenvectors, attacked, clean, after = (
    dict(zip(names, array, strict=True)) for array in others
  )
  options = {
    "labels": [0] * num_examples,
    "label_names": label_names,
    "threat": "PGD-20, linf 0.1",
  }
  figure = ri.plots.examples(
    images,
    eigenvectors,
    attacked,
    probabilities=clean,
    attacked_probabilities=after,
    **(options | kwargs),
  )
  figure.canvas.draw()
  return figure


@pytest.mark.parametrize(
  ("num_runs", "num_examples", "shape"),
  [
    (1, 1, (8, 8, 1)),
    (1, 6, (28, 28, 1)),
    (4, 2, (32, 32, 3)),
    (2, 3, (8, 24, 3)),
  ],
)
def test_examples_are_legible(num_runs, num_examples, shape):
  figure = draw_examples(
    make_examples(num_runs, num_examples, shape),
    label_names=figure_checks.WORDS,
    run_names=[figure_checks.LONG.format(i) for i in range(num_runs)],
  )
  figure_checks.assert_legible(figure)
  assert len(figure.axes) == 4 * num_runs * num_examples


def test_examples_of_a_hundred_classes_with_long_names_are_legible():
  figure = draw_examples(
    make_examples(2, 5, (32, 32, 3), num_classes=100),
    label_names=[f"a class with a long name, number {i}" for i in range(100)],
  )
  figure_checks.assert_legible(figure)


def test_examples_show_what_was_handed_over():
  arrays = make_examples(2, 3, (8, 8, 1))
  images, eigenvectors, adversarial = arrays[:3]
  figure = draw_examples(arrays)
  axes = np.array(figure.axes).reshape(2, 4, 3)
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
  notes = [text.get_text() for text in figure_checks.texts_of(figure)]
  assert "PGD-20, linf 0.1; perturbations magnified 5 times" in notes


def test_wrong_predictions_are_marked():
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
  figure = draw_examples(arrays, label_names=["ant", "bee", "cat"])
  axes = np.array(figure.axes).reshape(4, 2)
  assert axes[0, 0].get_xlabel() == "ant 70%"
  assert axes[0, 1].get_xlabel() == "✗ cat 60%"
  assert axes[3, 0].get_xlabel() == "✗ bee 100%"
  assert axes[3, 1].get_xlabel() == "not a number"
  assert axes[0, 0].xaxis.label.get_color() != style.LIGHT.alarm
  assert axes[0, 1].xaxis.label.get_color() == style.LIGHT.alarm
  figure = draw_examples(arrays, label_names=[3, 5, 8])
  assert figure.axes[0].get_xlabel() == "3 70%"
  figure = draw_examples(arrays, label_names=["ant", "bee", "automobile"])
  shown = np.array(figure.axes).reshape(4, 2)[0]
  assert [a.get_xlabel() for a in shown] == ["ant\n70%", "✗ automobile\n60%"]


@pytest.mark.parametrize("index", range(5))
def test_examples_survive_what_is_not_a_number(index):
  arrays = make_examples(1, 2, (8, 8, 3))
  arrays[index] = np.full_like(arrays[index], figure_checks.NAN)
  figure_checks.assert_legible(draw_examples(arrays))


def test_an_attack_that_changed_nothing_is_drawn():
  arrays = make_examples(1, 2, (8, 8, 1))
  arrays[1] = np.zeros_like(arrays[1])
  arrays[2] = arrays[0][None].copy()
  figure_checks.assert_legible(draw_examples(arrays))


def test_the_result_of_an_attack_has_its_images_and_predictions():
  images, _, attacked, _, after = make_examples(1, 3, (8, 8, 1))
  result = ri.attacks.AttackResult(
    x_adv=attacked[0, ..., 0],
    success=np.ones(3, bool),
    loss=np.zeros(3),
    logits=np.log(after[0]) + 7,
    zero_gradients=np.zeros(3, bool),
  )
  figure = ri.plots.examples(images[..., 0], attacked=result)
  axes = np.array(figure.axes).reshape(3, 3)
  for column in range(3):
    p = after[0, column]
    assert axes[2, column].get_xlabel() == f"{p.argmax()} {p.max():.0%}"
    np.testing.assert_allclose(
      axes[2, column].get_images()[0].get_array()[..., :1], attacked[0, column]
    )


def test_the_first_of_several_eigenvectors_is_shown():
  images, vectors, *_ = make_examples(1, 2, (8, 8, 1))
  several = np.stack([vectors[0], -vectors[0]], axis=1)
  figure = ri.plots.examples(images, several, theme="dark")
  shown = [axes.get_images()[0].get_array() for axes in figure.axes[2:]]
  np.testing.assert_allclose(shown, vectors[0, ..., 0])
  assert figure.get_facecolor() != (1, 1, 1, 1)


IMAGES = np.full((2, 4, 4), 0.5)
REFUSED = [
  ({"images": np.zeros((2, 16))}, r"\[N, H, W\] or \[N, H, W, 1 or 3\]"),
  ({"images": np.zeros((2, 4, 4, 2))}, "1 or 3"),
  ({"images": np.zeros((0, 4, 4))}, "1 to 32 images"),
  ({"images": np.zeros((33, 4, 4))}, "1 to 32 images, got shape"),
  ({"images": 255 * IMAGES}, "divide bytes by 255"),
  ({"eigenvectors": IMAGES[:1]}, "eigenvectors of the shape of images"),
  ({"attacked": {"a": IMAGES[:1]}}, r"attacked\['a'\] of the shape of images"),
  ({"attacked": IMAGES[..., None]}, "attacked of the shape of images"),
  ({"probabilities": np.ones((1, 3)) / 3}, r"probabilities of shape \[2, C\]"),
  ({"probabilities": np.ones((2, 3))}, r"pass jax.nn.softmax\(logits\)"),
  (
    {"attacked": {"a": IMAGES}, "eigenvectors": {"b": IMAGES}},
    r"attacked of the networks of eigenvectors, \['b'\]",
  ),
  ({"labels": [0]}, r"labels of shape \(2,\)"),
  ({"labels": [0.0, 1.0]}, "whole numbers"),
  ({"labels": [0, -1]}, "labels >= 0"),
  ({"labels": [0, 3], "label_names": ["a", "b"]}, "label_names of 4 classes"),
  ({"theme": "sepia"}, "theme to be one of 'light', 'dark'"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_a_misuse_is_refused_in_one_line(change, message):
  with pytest.raises(ValueError, match=message) as error:
    ri.plots.examples(**({"images": IMAGES} | change))
  assert "\n" not in str(error.value)
