"""Slow, obvious references in NumPy extended precision and in closed form."""

import numpy as np


def softmax(logits):
  z = np.asarray(logits, np.longdouble)
  z = z - z.max(axis=-1, keepdims=True)
  e = np.exp(z)
  return e / e.sum(axis=-1, keepdims=True)


def log_softmax(logits):
  """By log1p of the sum over other classes, so confident rows keep digits."""
  z = np.asarray(logits, np.longdouble)
  top = z.argmax(axis=-1, keepdims=True)
  z = z - np.take_along_axis(z, top, axis=-1)
  others = np.exp(z)
  np.put_along_axis(others, top, 0.0, axis=-1)
  return z - np.log1p(others.sum(axis=-1, keepdims=True))


def entropy(logits):
  log_p = log_softmax(logits)
  return -(np.exp(log_p) * log_p).sum(axis=-1)


def kl_divergence(logits_p, logits_q):
  """Sum of p phi(u): independent of the code's grouping, and far from noise."""
  log_p, log_q = log_softmax(logits_p), log_softmax(logits_q)
  u = log_q - log_p
  return (np.exp(log_p) * (np.expm1(u) - u)).sum(axis=-1)


def squared_fisher_rao_distance(logits_p, logits_q):
  """The squared distance and its gradient in `logits_q`, [..., C]."""
  log_p, log_q = log_softmax(logits_p), log_softmax(logits_q)
  root_p, root_q = np.exp(log_p / 2), np.exp(log_q / 2)
  chord = (root_p * np.expm1((log_q - log_p) / 2)) ** 2
  angle = 2 * np.arcsin(np.sqrt(chord.sum(axis=-1)) / 2)
  overlap = (root_p * root_q).sum(axis=-1)[..., None]
  ratio = (angle / np.sin(angle))[..., None]
  return 4 * angle**2, 4 * ratio * root_q * (overlap * root_q - root_p)


def pairwise_kl(logits):
  """[N, N] of KL(p_i||p_j), row by row."""
  log_p = log_softmax(logits)
  result = np.empty((len(log_p),) * 2, np.longdouble)
  for i, row in enumerate(log_p):
    u = log_p - row
    result[i] = (np.exp(row) * (np.expm1(u) - u)).sum(axis=-1)
  return result


def mutual_information(logits):
  pbar = softmax(logits).mean(axis=0)
  return kl_divergence(
    logits, np.broadcast_to(np.log(pbar), logits.shape)
  ).mean()


def lautum_information(logits):
  pbar = softmax(logits).mean(axis=0)
  return kl_divergence(
    np.broadcast_to(np.log(pbar), logits.shape), logits
  ).mean()


def label_information(logits, labels):
  p = softmax(logits)
  num_examples, num_classes = p.shape
  joint = np.zeros((num_classes, num_classes), np.longdouble)
  for k, row in zip(labels, p, strict=True):
    joint[k] += row / num_examples
  independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
  seen = joint > 0
  return (joint[seen] * np.log(joint[seen] / independent[seen])).sum()


def cckl(logits, labels):
  labels = np.asarray(labels)
  cross = labels[:, None] != labels[None, :]
  return pairwise_kl(logits)[cross].mean()


def cckl_matrix(logits, labels):
  pairs, labels = pairwise_kl(logits), np.asarray(labels)
  num_classes = np.shape(logits)[1]
  return np.array(
    [
      [
        pairs[np.ix_(labels == a, labels == b)].mean()
        for b in range(num_classes)
      ]
      for a in range(num_classes)
    ]
  )


def fisher(jacobian, logits):
  """Dense F of one example: sum over k<l of p_k p_l (J_k-J_l)(J_k-J_l)^T.

  Equal to J^T (diag p - p p^T) J, without its cancellation. J is [C, D].
  """
  p = softmax(logits)
  jacobian = np.asarray(jacobian, np.longdouble)
  result = np.zeros((jacobian.shape[1],) * 2, np.longdouble)
  for k in range(len(p)):
    for m in range(k):
      difference = jacobian[k] - jacobian[m]
      result += p[k] * p[m] * np.outer(difference, difference)
  return result


def path_fisher(logits_at, velocity_at, num_nodes=100_000):
  """int (1-t) Var_{p_t}(zdot_t) dt by the midpoint rule; t is an array [T]."""
  t = (np.arange(num_nodes, dtype=np.float64) + 0.5) / num_nodes
  p, velocity = softmax(logits_at(t)), velocity_at(t)
  mean = (p * velocity).sum(-1, keepdims=True)
  variance = (p * (velocity - mean) ** 2).sum(-1)
  return ((1 - t) * variance).mean()
