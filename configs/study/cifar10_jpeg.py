r"""The first steps of the paper's ladder, in colour, on two CPU cores.

  python -m robust_info.study configs/study/cifar10_jpeg.py --output=runs/jpeg

Data: CIFAR-10 encoded again as JPEG of quality 75, which is not the benchmark
of that name. Networks: VGG13 in the paper's three variants with an eighth of
its channels, three epochs of standard and of PGD-2 training at linf 8/255. A
run takes five to fifteen minutes.

The recipe was lowered to what two cores can do before the first run was
measured; the learning rate was not tuned. Epsilon rises over the first quarter
of training because so narrow a VGG otherwise did not begin to learn within an
epoch of PGD. The thresholds, chosen before the first run, are those of
`paper.py`.
"""

from configs import cifar10
from robust_info import study
from robust_info.study import questions

_VARIANTS = {
  "pure-linear": "pure_linear",
  "half-linear": "half_linear",
  "relu": "relu",
}
_OBJECTIVES = {
  "standard": {"objective.name": "standard"},
  "pgd": {
    "objective.num_steps": 2,
    "objective.step_size": 0.625,
    "objective.epsilon_ramp": 0.25,
  },
}


def get_study() -> study.Study:
  """The study."""
  return study.Study(
    title="The VGGs of arXiv:1906.02494, narrow, on CIFAR-10 as JPEG",
    cases=(
      study.Case(
        name="jpeg",
        base=cifar10.get_config,
        changes={
          "data.name": "cifar10_jpeg",
          "model.name": "vgg13",
          "model.width": 0.125,
          "train.num_epochs": 3,
          "train.learning_rate": 1e-3,
          "train.optimizer": "adamw",
          "train.schedule": "cosine",
          "train.validate_every": 10,
          "train.validate_at": tuple(4**k for k in range(6)),
          "evaluation.attack": "apgd",
          "evaluation.num_pairs": 256,
          "evaluation.num_coarse_pairs": 4096,
          "evaluation.num_nodes": 32,
          "evaluation.sanity_examples": 32,
          "evaluation.validation_examples": 100,
        },
        recipes=tuple(
          study.Recipe(
            f"{name}-{objective}", {"model.variant": variant, **changes}
          )
          for name, variant in _VARIANTS.items()
          for objective, changes in _OBJECTIVES.items()
        ),
        seeds=(0, 1, 2),
        num_examples=250,
      ),
    ),
    questions=(
      questions.Characterises(recipe="relu-standard", min_correlation=0.8),
      questions.Rises(recipe="relu-standard", factor=2.0, nats=0.1),
      questions.Regularises(
        standard="relu-standard", adversarial="relu-pgd", factor=2.0, nats=0.1
      ),
      questions.Nonlinearity(
        pairs=(
          (
            "half linear, standard",
            "pure-linear-standard",
            "half-linear-standard",
          ),
          ("normal, standard", "pure-linear-standard", "relu-standard"),
          ("half linear, PGD", "pure-linear-pgd", "half-linear-pgd"),
          ("normal, PGD", "pure-linear-pgd", "relu-pgd"),
        ),
        share=0.05,
        accuracy=0.05,
      ),
    ),
  )
