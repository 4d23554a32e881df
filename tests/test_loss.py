"""Cross-entropy with softmax: labels of both kinds, smoothing, extreme logits, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from checks import assert_close, assert_equal, normals

from fastcnn import nn

pytestmark = pytest.mark.usefixtures("isa", "threads")


def problem(shape, dtype):
    """Logits, class numbers, and probabilities that do not sum to one."""
    logits = normals(*shape, dtype=dtype) * 3
    labels = np.random.default_rng(1).integers(0, shape[-1], shape[:-1])
    return logits, labels, np.random.default_rng(2).random(shape).astype(dtype)


def check(labels, targets, logits, dtype, smoothing=0.0):
    losses, dlogits = nn.softmax_cross_entropy(labels, logits, smoothing)
    exact, exact_gradient = reference.softmax_cross_entropy(targets, logits)
    size = targets.sum(-1) * (1 + np.ptp(logits.astype(np.float64), -1))
    depth = logits.shape[-1]
    assert_close(losses, exact, np.float64, depth, size, precision=dtype)
    assert_close(dlogits, exact_gradient, dtype, depth, reference.softmax(logits) * size[..., None] + targets)


@pytest.mark.parametrize("classes", [1, 2, 3, 4, 5, 7, 8, 9, 10, 15, 16, 17, 33, 1000])
def test_class_numbers_and_probabilities(classes, dtype):
    logits, labels, probabilities = problem((6, classes), dtype)
    check(labels, np.eye(classes)[labels], logits, dtype)
    check(probabilities, probabilities, logits, dtype)


def test_smoothed_labels_of_many_classes_lose_nothing():
    """In one float32 chain their sum is wrong by 0.01."""
    logits = normals(2, 1_000_000, dtype=np.float32)
    gradient = nn.softmax_cross_entropy([0, 1], logits, 0.1)[1]
    exact = nn.softmax_cross_entropy([0, 1], logits.astype(np.float64), 0.1)[1]
    assert np.linalg.norm((gradient - exact)[:, 2:]) < 2e-6 * np.linalg.norm(exact[:, 2:])
    assert np.abs(gradient.sum(-1, dtype=np.float64)).max() < 1e-5


@pytest.mark.parametrize("shape", [(5,), (0, 5), (3, 4, 5), (2, 0, 5), (4000, 10)])
def test_labels_of_any_shape(shape, dtype):
    logits, labels, probabilities = problem(shape, dtype)
    check(labels, np.eye(shape[-1])[labels], logits, dtype)
    check(probabilities, probabilities, logits, dtype)


@pytest.mark.parametrize("smoothing", [0.1, 0.5, 1.0])
def test_label_smoothing_mixes_in_the_uniform_distribution(smoothing, dtype):
    logits, labels, probabilities = problem((6, 7), dtype)
    check(labels, np.eye(7)[labels] * (1 - smoothing) + smoothing / 7, logits, dtype, smoothing)
    check(probabilities, probabilities * (1 - smoothing) + smoothing / 7, logits, dtype, smoothing)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint64, list])
def test_class_numbers_of_any_integer_type(kind, dtype):
    logits, labels, _ = problem((6, 7), dtype)
    given = labels.tolist() if kind is list else labels.astype(kind)
    for actual, wanted in zip(
        nn.softmax_cross_entropy(given, logits), nn.softmax_cross_entropy(labels, logits), strict=True
    ):
        assert_equal(actual, wanted, wanted.dtype)


def test_the_type_of_the_logits_decides(dtype):
    logits, _, probabilities = problem((6, 7), dtype)
    wanted = nn.softmax_cross_entropy(probabilities.astype(dtype), logits)
    for other in (np.float16, np.float32, np.float64):
        losses, dlogits = nn.softmax_cross_entropy(probabilities.astype(other), logits)
        assert losses.dtype == np.float64
        assert dlogits.dtype == dtype
        np.testing.assert_allclose(losses, wanted[0], rtol=1e-3)


@pytest.mark.parametrize("scale", [1e3, 1e30])
def test_huge_logits_do_not_overflow(scale, dtype):
    logits = np.array([[1, 0, -1], [-1, 1, 0]], dtype) * dtype(scale)
    losses, dlogits = nn.softmax_cross_entropy([0, 0], logits)
    assert_close(losses, np.array([0, 2 * scale]), np.float64, scale=scale, precision=dtype)
    assert_equal(dlogits, [[0, 0, 0], [-1, 1, 0]], dtype)


def test_a_class_that_cannot_be_costs_nothing_unless_it_is_the_label(dtype):
    losses, dlogits = nn.softmax_cross_entropy([1, 0], np.array([[-np.inf, 0, 0], [-np.inf, 0, 0]], dtype))
    assert_close(losses, np.array([np.log(2), np.inf]), np.float64, precision=dtype)
    assert_close(dlogits, np.array([[0, -0.5, 0.5], [-1, 0.5, 0.5]]), dtype)


def test_a_nan_takes_its_row_and_no_other(dtype):
    logits, labels, _ = problem((3, 20), dtype)
    logits[1, 7] = np.nan
    losses, dlogits = nn.softmax_cross_entropy(labels, logits)
    np.testing.assert_array_equal(np.isnan(losses), [False, True, False])
    np.testing.assert_array_equal(np.isnan(dlogits).any(-1), [False, True, False])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradients_agree_with_differences(smoothing):
    logits, labels, probabilities = problem((4, 5), np.float64)
    for given in (labels, probabilities):
        _, dlogits = nn.softmax_cross_entropy(given, logits, smoothing)
        numerical = reference.numerical_gradient(
            lambda v, given=given: nn.softmax_cross_entropy(given, v, smoothing)[0].sum(), logits
        )
        np.testing.assert_allclose(dlogits, numerical, rtol=1e-7, atol=1e-8)


LOGITS = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nn.softmax_cross_entropy([0, 3], LOGITS), ValueError, r"^labels .*3"),
        (lambda: nn.softmax_cross_entropy([0, -1], LOGITS), ValueError, r"^labels .*-1"),
        (lambda: nn.softmax_cross_entropy([0], LOGITS), ValueError, r"^labels .*\(1,\)"),
        (lambda: nn.softmax_cross_entropy([0.0, 1.0], LOGITS), TypeError, r"^labels .*float64"),
        (lambda: nn.softmax_cross_entropy(["a", "b"], LOGITS), TypeError, r"^labels "),
        (lambda: nn.softmax_cross_entropy([True, False], LOGITS), TypeError, r"^labels .*bool"),
        (lambda: nn.softmax_cross_entropy(np.zeros((2, 4)), LOGITS), (TypeError, ValueError), r"^labels .*\(2, 4\)"),
        (lambda: nn.softmax_cross_entropy([[0, 1], [2]], LOGITS), (TypeError, ValueError), r"^labels "),
        (lambda: nn.softmax_cross_entropy(0, 1.0), ValueError, r"^logits .*\(\)"),
        (lambda: nn.softmax_cross_entropy([0, 0], LOGITS[:, :0]), ValueError, r"^logits .*\(2, 0\)"),
        (lambda: nn.softmax_cross_entropy([0, 0], LOGITS * 1j), TypeError, r"^logits .*complex"),
        (lambda: nn.softmax_cross_entropy([0, 0], LOGITS, 1.5), ValueError, r"^label_smoothing .*1.5"),
        (lambda: nn.softmax_cross_entropy([0, 0], LOGITS, None), TypeError, r"^label_smoothing .*None"),
    ],
)
def test_arguments_that_do_not_fit_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
