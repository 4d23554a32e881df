"""What the ops should compute, in float64 NumPy, written straight from the definitions and apart from the package."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

# ---- windows ----


def explicit_pads(padding, size, window, strides):
    """Spell padding as ((top, bottom), (left, right)); "same" makes ceil(size / stride) windows."""
    if isinstance(padding, int):
        return (padding, padding), (padding, padding)
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding != "same":
        return padding
    sides = []
    for n, w, s in zip(size, window, strides, strict=True):
        total = next(p for p in range(n + w) if len(range(0, n + p - w + 1, s)) >= -(-n // s))
        sides.append((total // 2, total - total // 2))
    return tuple(sides)


def padded(x, pads, value=0.0):
    return np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=value)


def cropped(x, pads):
    (top, bottom), (left, right) = pads
    return x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]


def taps(size, window, strides, dilations=(1, 1)) -> Iterator[tuple[int, int, tuple[slice, slice, slice]]]:
    """For each tap of a window: its row and column, and the pixels of a padded image it meets in all windows."""
    spans = [(w - 1) * d + 1 for w, d in zip(window, dilations, strict=True)]
    counts = [len(range(0, n - span + 1, s)) for n, span, s in zip(size, spans, strides, strict=True)]
    for r in range(window[0]):
        for s in range(window[1]):
            starts = r * dilations[0], s * dilations[1]
            yield (
                r,
                s,
                (
                    slice(None),
                    *(
                        slice(a, a + (n - 1) * step + 1, step)
                        for a, n, step in zip(starts, counts, strides, strict=True)
                    ),
                ),
            )


# ---- convolution ----


def _conv_taps(x, w, strides, padding, dilations, groups):
    """The padded input, its pads, and (tap, pixels, channels of the input, filters) for each tap of each group."""
    window = [(n - 1) * d + 1 for n, d in zip(w.shape[:2], dilations, strict=True)]
    pads = explicit_pads(padding, x.shape[1:3], window, strides)
    x = padded(x.astype(np.float64), pads)
    depth, filters = w.shape[2], w.shape[3] // groups
    parts = [
        ((r, s), pixels, slice(g * depth, (g + 1) * depth), slice(g * filters, (g + 1) * filters))
        for r, s, pixels in taps(x.shape[1:3], w.shape[:2], strides, dilations)
        for g in range(groups)
    ]
    return x, pads, parts


def conv2d(x, w, strides=(1, 1), padding="valid", dilations=(1, 1), groups=1):
    x, _, parts = _conv_taps(x, w, strides, padding, dilations, groups)
    y = np.zeros((*x[parts[0][1]].shape[:3], w.shape[3]))
    for tap, pixels, channels, filters in parts:
        y[..., filters] += x[pixels][..., channels] @ w[tap][:, filters].astype(np.float64)
    return y


def conv2d_backward(grad, x, w, strides=(1, 1), padding="valid", dilations=(1, 1), groups=1):
    """The gradients of the input, the filters and the bias."""
    x, pads, parts = _conv_taps(x, w, strides, padding, dilations, groups)
    grad = grad.astype(np.float64)
    dx, dw = np.zeros(x.shape), np.zeros(w.shape)
    for tap, pixels, channels, filters in parts:
        dx[pixels][..., channels] += grad[..., filters] @ w[tap][:, filters].astype(np.float64).T
        dw[tap][:, filters] = np.tensordot(x[pixels][..., channels], grad[..., filters], ([0, 1, 2], [0, 1, 2]))
    return cropped(dx, pads), dw, grad.sum((0, 1, 2))


def conv2d_transpose(x, w, size, strides=(1, 1), padding="valid", dilations=(1, 1)):
    """Every pixel adds its window of w, (R, S, K, C), to a result of so many rows and columns."""
    window = [(n - 1) * d + 1 for n, d in zip(w.shape[:2], dilations, strict=True)]
    (top, bottom), (left, right) = pads = explicit_pads(padding, size, window, strides)
    y = np.zeros((len(x), top + size[0] + bottom, left + size[1] + right, w.shape[2]))
    for n, i, j in np.ndindex(x.shape[:3]):
        for r, s in np.ndindex(w.shape[:2]):
            y[n, i * strides[0] + r * dilations[0], j * strides[1] + s * dilations[1]] += w[r, s] @ x[n, i, j]
    return cropped(y, pads)


# ---- pooling ----


def _pool_taps(x, ksize, strides, padding):
    """What each tap meets, (taps, N, H', W', C), whether that is a real pixel, and the pads and pixels."""
    pads = explicit_pads(padding, x.shape[1:3], ksize, strides)
    real = padded(np.ones(x.shape, bool), pads, False)
    x = padded(x.astype(np.float64), pads, -np.inf)
    pixels = [p for _, _, p in taps(x.shape[1:3], ksize, strides)]
    return np.stack([x[p] for p in pixels]), np.stack([real[p] for p in pixels]), pads, pixels


def _scatter(parts, pixels, pads, shape):
    (top, bottom), (left, right) = pads
    dx = np.zeros((shape[0], shape[1] + top + bottom, shape[2] + left + right, shape[3]))
    for p, part in zip(pixels, parts, strict=True):
        dx[p] += part
    return cropped(dx, pads)


def _winner(values, real):
    """The tap of the first maximum; argmax takes the first NaN for one."""
    at = np.argmax(values, 0)
    return np.where(np.take_along_axis(real, at[None], 0)[0], at, np.argmax(real, 0))


def max_pool(x, ksize, strides, padding="valid"):
    values, real, _, _ = _pool_taps(x, ksize, strides, padding)
    return np.take_along_axis(values, _winner(values, real)[None], 0)[0]


def max_pool_backward(grad, x, ksize, strides, padding="valid"):
    values, real, pads, pixels = _pool_taps(x, ksize, strides, padding)
    at = _winner(values, real)
    return _scatter([np.where(at == k, grad, 0.0) for k in range(len(pixels))], pixels, pads, x.shape)


def avg_pool(x, ksize, strides, padding="valid"):
    values, real, _, _ = _pool_taps(x, ksize, strides, padding)
    return np.where(real, values, 0.0).sum(0) / real.sum(0)


def avg_pool_backward(grad, shape, ksize, strides, padding="valid"):
    _, real, pads, pixels = _pool_taps(np.zeros(shape), ksize, strides, padding)
    return _scatter([np.where(r, grad / real.sum(0), 0.0) for r in real], pixels, pads, shape)


# ---- activations and losses; longdouble where float64 itself is under test ----


def relu(x):
    return np.maximum(x, 0.0)


def leaky_relu(x, alpha=0.2):
    return np.where(x < 0, x * alpha, x)


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -x.astype(np.longdouble)))


def tanh(x):
    return np.tanh(x.astype(np.longdouble))


def hard_sigmoid(x):
    return np.clip(x + 3.0, 0.0, 6.0) / 6


def silu(x):
    return x * sigmoid(x)


def normal_share(x):
    """The share of a normal distribution that lies below x."""
    return np.array([math.erfc(-v / math.sqrt(2)) / 2 for v in x.ravel().tolist()]).reshape(x.shape)


def gelu(x):
    return x * normal_share(x)


def gelu_by_tanh(x):
    x = x.astype(np.longdouble)
    return x * sigmoid(2 * np.sqrt(2 / np.longdouble(np.pi)) * (x + np.longdouble("0.044715") * x**3))


def log_softmax(x, axis=-1):
    x = x.astype(np.longdouble)
    return x - np.logaddexp.reduce(x, axis, keepdims=True)


def softmax(x, axis=-1):
    return np.exp(log_softmax(x, axis))


ACTIVATIONS: dict[str | None, Callable] = {
    None: np.copy,
    "linear": np.copy,
    "relu": relu,
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    "leaky_relu": leaky_relu,
    "sigmoid": sigmoid,
    "hard_sigmoid": hard_sigmoid,
    "tanh": tanh,
    "silu": silu,
    "hard_swish": lambda x: x * hard_sigmoid(x),
    "gelu": gelu,
    "softmax": softmax,
    "log_softmax": log_softmax,
}


def softmax_cross_entropy(targets, logits):
    """The losses, and the gradient of each with respect to its row of logits."""
    targets = targets.astype(np.longdouble)
    losses = -(targets * log_softmax(logits)).sum(-1)
    return losses, softmax(logits) * targets.sum(-1, keepdims=True) - targets


# ---- normalisation ----


def batch_normalization(x, mean, variance, offset, scale, epsilon):
    return (x.astype(np.float64) - mean) / np.sqrt(variance.astype(np.float64) + epsilon) * scale + offset


def batch_normalization_backward(grad, x, mean, variance, scale, epsilon, training):
    """The chain rule through y = (x - mean) * inverse * scale + offset, then through mean and variance."""
    grad, x, mean, variance, scale = (a.astype(np.float64) for a in (grad, x, mean, variance, scale))
    axes = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    inverse = 1 / np.sqrt(variance + epsilon)
    dscale = (grad * (x - mean) * inverse).sum(axes)
    dx = grad * scale * inverse
    if training:
        dvariance = (grad * (x - mean) * scale).sum(axes) * -0.5 * inverse**3
        dmean = -dx.sum(axes) - dvariance * 2 * (x - mean).mean(axes)
        dx = dx + dvariance * 2 * (x - mean) / count + dmean / count
    return dx, dscale, grad.sum(axes)


def layer_normalization(x, offset, scale, epsilon):
    x = x.astype(np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * scale + offset


def layer_normalization_backward(grad, x, scale, epsilon):
    """The chain rule through y = z * scale + offset and z = (x - mean) * inverse, row by row."""
    grad, x, scale = (a.astype(np.float64) for a in (grad, x, scale))
    inverse = 1 / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    z, dz, axes = (x - x.mean(-1, keepdims=True)) * inverse, grad * scale, tuple(range(x.ndim - 1))
    dx = inverse * (dz - dz.mean(-1, keepdims=True) - z * (dz * z).mean(-1, keepdims=True))
    return dx, (grad * z).sum(axes), grad.sum(axes)


# ---- dropout ----


def philox4x32(counters, key):
    """Ten rounds of Philox4x32 (Salmon et al., 2011) on rows of four words, as rows of four words."""
    low = np.uint64(0xFFFFFFFF)
    c0, c1, c2, c3 = np.asarray(counters, np.uint64).T
    k0, k1 = (np.uint64(k) for k in key)
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> np.uint64(32)) ^ c1 ^ k0, p1 & low, (p0 >> np.uint64(32)) ^ c3 ^ k1, p0 & low
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    return np.stack([c0, c1, c2, c3], -1)


def dropout_mask(n, rate, seed):
    """Which of n elements are kept."""
    counters = np.zeros((-(-n // 4), 4), np.uint64)
    counters[:, 0] = np.arange(len(counters))
    words = philox4x32(counters, (seed & 0xFFFFFFFF, seed >> 32))
    return words.ravel()[:n] >= int(rate * 2**32)


# ---- optimiser steps ----


def sgd_step(p, g, v, rate, momentum=0.0, nesterov=False, decay=0.0):
    """The new parameter and momentum."""
    v = momentum * v - rate * g
    return p * (1 - rate * decay) + (momentum * v - rate * g if nesterov else v), v


def adam_step(p, g, m, v, rate, beta_1, beta_2, epsilon, step, decay=0.0):
    """The new parameter and moments, as in Algorithm 1 of Kingma and Ba, with the order of section 2's end."""
    m = beta_1 * m + (1 - beta_1) * g
    v = beta_2 * v + (1 - beta_2) * g * g
    alpha = rate * np.sqrt(1 - beta_2**step) / (1 - beta_1**step)
    return p * (1 - rate * decay) - alpha * m / (np.sqrt(v) + epsilon), m, v


# ---- gradients of anything ----


def numerical_gradient(f, x, eps=1e-5):
    """The gradient of the scalar f at x, by central differences."""
    gradient = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += eps
        down[i] -= eps
        gradient[i] = (f(up) - f(down)) / (2 * eps)
    return gradient


def numerical_gradient_by(array, f, eps=1e-5):
    """The gradient of the scalar f() by an array that it looks at; the array is moved and put back."""
    kept = array.copy()

    def moved(values):
        array[...] = values
        return f()

    gradient = numerical_gradient(moved, kept, eps)
    array[...] = kept
    return gradient
