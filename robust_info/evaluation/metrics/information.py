"""Information in the clean predictions, in nats."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from robust_info.evaluation.metrics import rows, subject

# Fields of `information.InformationSummary` -> label in the table, if any.
_FIELDS = {
  "mutual_information": "I(X;Y^)  mutual information",
  "lautum_information": "L(X;Y^)  lautum information",
  "label_information": "I(K;Y^)  label information",
  "conditional_information": None,
  "variational_bound": "H(K) - cross-entropy <= I(K;X)",
  "label_entropy": "H(K)  label entropy",
  "prediction_entropy": None,
  "cckl": "CCKL, all cross-category pairs",
}
_SHOWN = (
  "cckl",
  "mutual_information",
  "lautum_information",
  "label_information",
  "variational_bound",
  "label_entropy",
)
_FOLLOWED = (
  "cckl",
  "mutual_information",
  "lautum_information",
  "label_information",
)


def measure(network: subject.Subject) -> dict[str, Any]:
  """`information`, `cckl_matrix` and their standard errors over examples."""
  jackknife = network.clean.jackknife

  def described(summary):
    return {
      "information": {name: float(getattr(summary, name)) for name in _FIELDS},
      "cckl_matrix": rows.matrix(summary.cckl_matrix),
    }

  return {
    **described(jackknife.estimate),
    "standard_errors": described(jackknife.standard_error),
  }


def sections(runs: Sequence[rows.Run]) -> Iterator[rows.Section]:
  """The part of the table."""

  def cell(name):
    return lambda run: rows.number(*rows.pair(run, name, "information"))

  yield rows.section(
    "Information", runs, [(_FIELDS[name], cell(name)) for name in _SHOWN]
  )


def follow(network: subject.Followed) -> Mapping[str, float]:
  """The numbers of validation."""
  summary = network.summary
  return {name: float(getattr(summary, name)) for name in _FOLLOWED}
