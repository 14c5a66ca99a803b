"""Learning without forgetting written a second time, in plain numpy, from logits to the loss."""

from __future__ import annotations

import numpy as np


def log_softmax(z):
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def distilled(student, teacher, T):
    """-mean_n sum_c q_nc log p_nc over the outputs of the teacher, one loop per sample."""
    total = 0.0
    log_p, log_q = log_softmax(student / T), log_softmax(teacher / T)
    for n in range(len(teacher)):
        for c in range(teacher.shape[1]):
            total -= np.exp(log_q[n, c]) * log_p[n, c]
    return total / len(teacher)


def loss(scenario, k, new, y, student, teacher, *, T, squared, weighting, strength, zero):
    """The loss at the k-th task, k >= 2.

    ``new`` (N, C) and y (N,) are its logits and labels; ``student`` and ``teacher`` are lists of
    (N, C) per head: of every earlier task (task), the shared head (domain), or one of all classes
    so far (class), of which the teacher's are those of earlier tasks.
    """
    own = -np.mean([row[label] for row, label in zip(log_softmax(new), y, strict=True)])
    parts = []
    for s, t in zip(student, teacher, strict=True):
        old = s if zero else s[:, : t.shape[1]]
        parts.append(distilled(old, t, T) * (T**2 if squared else 1.0))
    if weighting == "fixed":
        return own + strength * sum(parts)
    if weighting == "shares":
        return own / k + (1 - 1 / k) * sum(parts) / len(parts)
    contexts = {"task": k - 1, "domain": k - 1, "class": 1}[scenario]
    return own + contexts * sum(parts) / len(parts)
