"""The adapters' formulas written a second time, in plain numpy loops, to test against."""

from __future__ import annotations

import numpy as np

NF4 = """-1 -.6961928009986877 -.5250730514526367 -.39491748809814453 -.28444138169288635
-.18477343022833 -.09105003625154495 0 .07958029955625534 .16093020141124725 .24611230194568634
.33791524171829224 .44070982933044434 .5626170039176941 .7229568362236023 1"""


def linear_layer(x, W0, bias):
    """One sample at a time, one output at a time."""
    return np.array([[np.dot(row, sample) for row in W0] + bias for sample in x])


def lora_forward(x, W0, bias, A, B, scale):
    out = linear_layer(x, W0, bias)
    for n, sample in enumerate(x):
        for i in range(W0.shape[0]):
            for k in range(A.shape[0]):
                out[n, i] += scale * B[i, k] * np.dot(A[k], sample)
    return out


def dora_forward(x, W0, bias, A, B, scale, magnitude):
    V = W0.copy()
    for i in range(W0.shape[0]):
        for k in range(A.shape[0]):
            V[i] += scale * B[i, k] * A[k]
        V[i] *= magnitude[i] / np.sqrt((V[i] ** 2).sum())
    return linear_layer(x, V, bias)


def adalora_forward(x, W0, bias, P, lam, Q, scale):
    W = W0.copy()
    for i in range(len(lam)):
        W += scale * lam[i] * np.outer(P[:, i], Q[i])
    return linear_layer(x, W, bias)


def conv2d(x, W, bias, stride, padding, dilation, groups):
    """A convolution with zero padding, by its definition."""
    n, c_in, height, width = x.shape
    c_out, per_group, kh, kw = W.shape
    padded = np.zeros((n, c_in, height + 2 * padding, width + 2 * padding))
    padded[:, :, padding : padding + height, padding : padding + width] = x
    oh = (height + 2 * padding - dilation * (kh - 1) - 1) // stride + 1
    ow = (width + 2 * padding - dilation * (kw - 1) - 1) // stride + 1
    out = np.zeros((n, c_out, oh, ow)) + bias[None, :, None, None]
    for o in range(c_out):
        group = o // (c_out // groups)
        for c in range(per_group):
            for dy in range(kh):
                for dx in range(kw):
                    rows = slice(dy * dilation, dy * dilation + stride * (oh - 1) + 1, stride)
                    columns = slice(dx * dilation, dx * dilation + stride * (ow - 1) + 1, stride)
                    seen = padded[:, group * per_group + c, rows, columns]
                    out[:, o] += W[o, c, dy, dx] * seen
    return out


def conv_delta(A, B, scale, groups):
    """s B A of a grouped convolution, entry by entry."""
    r, c_out = A.shape[0], B.shape[0]
    delta = np.zeros((c_out, *A.shape[1:]))
    for o in range(c_out):
        group = o // (c_out // groups)
        for k in range(r // groups):
            delta[o] += scale * B[o, k, 0, 0] * A[group * (r // groups) + k]
    return delta


def budget(t, T, b0, bT, ti, tf):
    if t < ti:
        return b0
    if t >= T - tf:
        return bT
    return int(np.floor(bT + (b0 - bT) * (1 - (t - ti) / (T - ti - tf)) ** 3))


class Importance:
    """AdaLoRA's sensitivity of one matrix, by its recurrences."""

    def __init__(self, shape, beta1=0.85, beta2=0.85):
        self.smooth, self.uncertain = np.zeros(shape), np.zeros(shape)
        self.beta1, self.beta2 = beta1, beta2

    def update(self, w, g):
        now = np.abs(w * g)
        self.smooth = self.beta1 * self.smooth + (1 - self.beta1) * now
        difference = np.abs(now - self.smooth)
        self.uncertain = self.beta2 * self.uncertain + (1 - self.beta2) * difference

    @property
    def score(self):
        return self.smooth * self.uncertain


def triplet_score(s_P, s_lam, s_Q):
    d_out, r = s_P.shape
    d_in = s_Q.shape[1]
    scores = []
    for i in range(r):
        column = sum(s_P[k, i] for k in range(d_out)) / d_out
        row = sum(s_Q[i, k] for k in range(d_in)) / d_in
        scores.append(s_lam[i] + column + row)
    return np.array(scores)


def nf4_round_trip(values, block=64):
    """Each value to the nearest level of its block; the blocks' absmax kept exactly."""
    levels = np.array([float(level) for level in NF4.split()])
    out = np.zeros_like(values)
    for start in range(0, len(values), block):
        part = values[start : start + block]
        absmax = np.abs(part).max()
        for i, value in enumerate(part):
            unit = value / absmax if absmax > 0 else 0.0
            out[start + i] = absmax * levels[np.abs(levels - unit).argmin()]
    return out
