"""Losses against their definitions and finite differences, metrics, and how labels are read."""

from __future__ import annotations

import numpy as np
import pytest
from reference import numerical_gradient

from fastcnn import losses, metrics, nn
from fastcnn.losses import BinaryCrossentropy, CategoricalCrossentropy, MeanSquaredError, SparseCategoricalCrossentropy
from fastcnn.metrics import Accuracy, BinaryAccuracy, TopKCategoricalAccuracy

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((5, 4))
CLASSES = np.array([3, 0, 1, 1, 2])
ONE_HOT = np.eye(4)[CLASSES]
YES_NO = RNG.integers(0, 2, (5, 4))

CASES = {
    "sparse, logits": (SparseCategoricalCrossentropy(from_logits=True), CLASSES, LOGITS),
    "sparse, probabilities": (SparseCategoricalCrossentropy(), CLASSES, nn.softmax(LOGITS)),
    "sparse, smoothed": (SparseCategoricalCrossentropy(True, label_smoothing=0.2), CLASSES, LOGITS),
    "categorical, logits": (CategoricalCrossentropy(from_logits=True), ONE_HOT, LOGITS),
    "categorical, probabilities": (CategoricalCrossentropy(label_smoothing=0.1), ONE_HOT, nn.softmax(LOGITS)),
    "binary, logits": (BinaryCrossentropy(from_logits=True, label_smoothing=0.1), YES_NO, LOGITS),
    "binary, probabilities": (BinaryCrossentropy(), YES_NO, nn.sigmoid(LOGITS)),
    "squares": (MeanSquaredError(), ONE_HOT, LOGITS),
}
ALL = pytest.mark.parametrize(("loss", "y", "predicted"), CASES.values(), ids=CASES)


def definition(loss, y, predicted):
    """The mean loss, straight from the textbook."""
    if isinstance(loss, MeanSquaredError):
        return ((predicted - y) ** 2).mean()
    s = loss.label_smoothing
    if isinstance(loss, BinaryCrossentropy):
        p = 1 / (1 + np.exp(-predicted)) if loss.from_logits else predicted
        t = y * (1 - s) + s / 2
        return -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
    p = np.exp(predicted) / np.exp(predicted).sum(axis=1, keepdims=True) if loss.from_logits else predicted
    t = (np.eye(4)[y] if y.ndim == 1 else y) * (1 - s) + s / 4
    return -(t * np.log(p)).sum(axis=1).mean()


@ALL
def test_values_are_those_of_the_definition(loss, y, predicted):
    assert loss(y, predicted) == pytest.approx(definition(loss, y, predicted), rel=1e-12)


@ALL
def test_gradients_are_those_of_finite_differences(loss, y, predicted):
    _, gradient = loss.value_and_gradient(y, predicted)
    np.testing.assert_allclose(gradient, numerical_gradient(lambda x: loss(y, x), predicted), rtol=1e-6, atol=1e-9)


@ALL
def test_single_precision_stays_single(loss, y, predicted):
    value, gradient = loss.value_and_gradient(y, predicted.astype(np.float32))
    assert gradient.dtype == np.float32
    assert gradient.shape == predicted.shape
    assert value == pytest.approx(definition(loss, y, predicted), rel=1e-5)


@ALL
def test_a_batch_of_nothing_has_no_loss(loss, y, predicted):
    value, gradient = loss.value_and_gradient(y[:0], predicted[:0])
    assert value == 0
    assert gradient.shape == (0, 4)


@pytest.mark.parametrize("loss", [SparseCategoricalCrossentropy(True), BinaryCrossentropy(True)])
def test_extreme_logits_have_finite_losses_and_gradients(loss):
    logits = np.array([[1000.0, -1000.0], [-1000.0, 1000.0]], np.float32)
    y = np.array([1, 1]) if isinstance(loss, SparseCategoricalCrossentropy) else np.array([[0, 1], [0, 1]])
    value, gradient = loss.value_and_gradient(y, logits)
    assert value == (1000 if y.ndim == 1 else 500)
    assert np.isfinite(gradient).all()


CATEGORICAL = pytest.mark.parametrize(
    ("loss", "y"), [(CategoricalCrossentropy(label_smoothing=0.1), ONE_HOT), (SparseCategoricalCrossentropy(), CLASSES)]
)


@CATEGORICAL
def test_probabilities_are_divided_by_their_sum(loss, y):
    predicted = nn.softmax(LOGITS) * np.array([[0.1], [0.3], [0.7], [1], [1.2]])
    value, gradient = loss.value_and_gradient(y, predicted)
    assert value == pytest.approx(loss(y, nn.softmax(LOGITS)), rel=1e-12)
    np.testing.assert_allclose(gradient, numerical_gradient(lambda x: loss(y, x), predicted), rtol=1e-6, atol=1e-8)


@CATEGORICAL
def test_probabilities_whose_sum_is_0_stay_as_they_are(loss, y):
    value, gradient = loss.value_and_gradient(y, np.zeros((5, 4)))
    assert value == pytest.approx(-np.log(1e-7), rel=1e-12)
    assert not gradient.any()


def test_losses_of_probabilities_are_those_of_keras():
    # What Keras 3.15 gives with torch, and torch's gradient of it.
    predicted = np.array([[1.0, 1.0, 1.0], [0.2, 0.1, 0.5]], np.float32)
    value, gradient = CategoricalCrossentropy().value_and_gradient([[0, 1, 0], [1, 0, 0]], predicted)
    assert value == pytest.approx(1.2424533, rel=1e-6)
    np.testing.assert_allclose(gradient, [[1 / 6, -1 / 3, 1 / 6], [-1.875, 0.625, 0.625]], rtol=1e-5)


def test_certain_probabilities_have_finite_losses():
    for loss, y in ((SparseCategoricalCrossentropy(), [0]), (BinaryCrossentropy(), [[0, 1]])):
        value, gradient = loss.value_and_gradient(y, np.array([[0.0, 1.0]]))
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("y", [CLASSES[:, None], CLASSES.astype(np.uint8), CLASSES.astype(float), CLASSES.tolist()])
def test_class_numbers_come_in_many_forms(y):
    loss = SparseCategoricalCrossentropy(from_logits=True)
    assert loss(y, LOGITS) == loss(CLASSES, LOGITS)


def test_one_value_a_sample_needs_no_axis_of_its_own():
    y = np.array([0, 1, 1, 0, 1])
    predicted = LOGITS[:, :1]
    for loss in (BinaryCrossentropy(from_logits=True), MeanSquaredError()):
        assert loss(y, predicted) == loss(y[:, None], predicted)
    assert BinaryAccuracy()(y, predicted).tolist() == BinaryAccuracy()(y[:, None], predicted).tolist()


@pytest.mark.parametrize(
    ("loss", "y", "error", "complaint"),
    [
        (SparseCategoricalCrossentropy(), [0, 1, 2, 3, 4], ValueError, r"\[0, 4\), got 4"),
        (SparseCategoricalCrossentropy(), [0, 1, 2, 3, -1], ValueError, "got -1"),
        (SparseCategoricalCrossentropy(), [0, 1], ValueError, r"shape \(5,\).*got \(2,\)"),
        (SparseCategoricalCrossentropy(), [0.5] * 5, ValueError, r"class numbers, .*got 0\.5"),
        (SparseCategoricalCrossentropy(), [float("nan")] * 5, ValueError, "class numbers, .*got nan"),
        (SparseCategoricalCrossentropy(), ONE_HOT, ValueError, "shape"),
        (CategoricalCrossentropy(), CLASSES, ValueError, r"\(5, 4\), got \(5,\)"),
        (CategoricalCrossentropy(), ONE_HOT.astype(complex), TypeError, "complex"),
        (CategoricalCrossentropy(), -ONE_HOT, ValueError, r"y must hold probabilities in \[0, 1\], got -1"),
        (BinaryCrossentropy(), 2 * YES_NO, ValueError, r"y must hold probabilities in \[0, 1\], got 2"),
        (BinaryCrossentropy(), YES_NO * np.nan, ValueError, "got nan"),
        (MeanSquaredError(), YES_NO + 1j, TypeError, "complex"),
        (SparseCategoricalCrossentropy(), ["a"] * 5, TypeError, "^y must hold real numbers"),
        (SparseCategoricalCrossentropy(), [[1], [1, 2]], ValueError, "^y must be an array of numbers"),
        (BinaryCrossentropy(), YES_NO[:, :1], ValueError, r"\(5, 4\), got \(5, 1\)"),
        (MeanSquaredError(), YES_NO.T, ValueError, r"\(5, 4\), got \(4, 5\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(loss, y, error, complaint):
    with pytest.raises(error, match=complaint):
        loss(y, nn.softmax(LOGITS))


def test_predictions_are_real_numbers():
    with pytest.raises(TypeError, match=r"^y_pred must hold real numbers .*1j"):
        MeanSquaredError()([1.0], [1j])


def test_names_are_those_of_keras():
    assert isinstance(losses.get("sparse_categorical_crossentropy"), SparseCategoricalCrossentropy)
    assert isinstance(losses.get("mse"), MeanSquaredError)
    with pytest.raises(ValueError, match="'hinge'"):
        losses.get("hinge")
    with pytest.raises(TypeError, match="loss must be a string or a Loss, got 3"):
        losses.get(3)
    for name in ("accuracy", "acc", "binary_accuracy", "sparse_categorical_accuracy", "top_k_categorical_accuracy"):
        assert metrics.get(name).name == name


# Metrics


def test_accuracy_reads_labels_in_either_form():
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.3, 0.3, 0.4]])
    assert Accuracy()([1, 1, 2], scores).tolist() == [1, 0, 1]
    assert Accuracy()(np.eye(3)[[1, 1, 2]], scores).tolist() == [1, 0, 1]
    assert Accuracy()([1, 0], [[0.6], [0.6]]).tolist() == [1, 0]


def test_top_k_counts_the_k_largest_and_never_a_nan():
    scores = np.array([[0.4, 0.3, 0.2, 0.1]] * 4 + [[np.nan] * 4])
    assert TopKCategoricalAccuracy(k=2)([0, 1, 2, 3, 0], scores).tolist() == [1, 1, 0, 0, 0]
    assert TopKCategoricalAccuracy(k=9)([0, 1, 2, 3], scores[:4]).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("metric", [Accuracy(), TopKCategoricalAccuracy(k=1)])
@pytest.mark.parametrize(
    ("y", "error", "complaint"),
    [
        ([-1], ValueError, r"y must hold class numbers, .*\[0, 2\), got -1"),
        ([7], ValueError, "got 7"),
        ([0.5], ValueError, r"got 0\.5"),
        ([np.nan], ValueError, "got nan"),
        ([[0.0, np.nan]], ValueError, "got nan"),
        (["a"], TypeError, "y must hold real numbers"),
        ([0, 1], ValueError, r"y must have shape \(1,\).*got \(2,\)"),
    ],
)
def test_metrics_refuse_labels_that_do_not_fit(metric, y, error, complaint):
    with pytest.raises(error, match=complaint):
        metric(y, [[0.1, 0.9]])


@pytest.mark.parametrize("metric", [Accuracy(), BinaryAccuracy(), TopKCategoricalAccuracy()])
def test_metrics_refuse_predictions_that_are_none(metric):
    for bad, error in ((["a"], TypeError), ([1j], TypeError), (None, TypeError)):
        with pytest.raises(error, match=r"^y_pred"):
            metric([1], bad)
    if not isinstance(metric, BinaryAccuracy):
        with pytest.raises(ValueError, match=r"^y_pred .*got \(\)"):
            metric([1], 0.5)


def test_yes_or_no_needs_a_batch_axis():
    with pytest.raises(ValueError, match=r"^y_pred must have a batch axis, got shape \(\)"):
        BinaryAccuracy()(1, 0.7)


@pytest.mark.parametrize(
    ("metric", "shape"), [(Accuracy(), (3, 0, 2)), (Accuracy(), (3, 0, 1)), (BinaryAccuracy(), (3, 0))]
)
def test_samples_without_values_have_a_figure_each(metric, shape):
    assert metric(np.zeros(shape), np.zeros(shape)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_threshold_is_rounded_as_predictions_are(dtype):
    assert BinaryAccuracy(threshold=0.1)([[1]], np.array([[0.1]], dtype)).tolist() == [0.0]
    assert BinaryAccuracy(threshold=1e300)([[1]], np.array([[0.1]], dtype)).tolist() == [0.0]


def test_a_nan_is_never_right():
    assert Accuracy()([0, 1, 1], [[np.nan, 1], [0, np.nan], [0, 1]]).tolist() == [0, 0, 1]
    assert BinaryAccuracy()([0, 0], [np.nan, 0.1]).tolist() == [0, 1]


@pytest.mark.parametrize("loss", [CategoricalCrossentropy(), BinaryCrossentropy()])
def test_probabilities_may_be_off_by_rounding_and_no_more(loss):
    assert np.isfinite(loss([[0, 1]], [[-1e-7, 1 + 1e-7]]))
    for bad in (-0.5, 1.5):
        with pytest.raises(ValueError, match=rf"y_pred must hold probabilities in \[0, 1\], got {bad}"):
            loss([[0, 1]], [[0.5, bad]])
    assert np.isnan(loss([[0, 1]], [[0.5, np.nan]]))


def test_integer_predictions_do_not_round_the_labels():
    assert BinaryAccuracy()([0.9, 0.2], [1, 0]).tolist() == [1, 1]


def test_several_answers_a_sample_are_averaged():
    assert BinaryAccuracy()([[1, 0], [1, 1]], [[0.9, 0.8], [0.7, 0.6]]).tolist() == [0.5, 1.0]
    scores = np.zeros((2, 3, 4))
    assert Accuracy()([[0, 0, 1], [0, 0, 0]], scores).tolist() == [pytest.approx(2 / 3), 1.0]
