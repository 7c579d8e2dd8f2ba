"""Curves on the grid agree with scikit-learn, and bands reflect the resamples."""

import numpy as np
import pytest
from made_runs import make_predictions
from sklearn import metrics as sk

from cxr_dist.evaluate.curves import GRID, precision_recall_curves, roc_curves


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_points_lie_on_scikit_learns_curves(task: str) -> None:
    predictions = make_predictions(task=task, passes=0)
    rocs, precisions = roc_curves(predictions, 5), precision_recall_curves(predictions, 5)
    for c, name in enumerate(predictions.classes):
        one = predictions.one_class(c)
        fpr, tpr, _ = sk.roc_curve(one.truth, one.score, drop_intermediate=False)
        best = [tpr[fpr <= x + 1e-12].max() for x in GRID]
        assert (rocs.per_class[name].y >= np.array(best) - 1e-12).all()
        assert np.trapezoid(rocs.per_class[name].y, GRID) == pytest.approx(sk.auc(fpr, tpr), abs=0.01)
        precision, recall, thresholds = sk.precision_recall_curve(one.truth, one.score)
        for x, y in zip(GRID, precisions.per_class[name].y, strict=True):
            reached = np.flatnonzero(recall[:-1] >= x - 1e-12)
            assert y == pytest.approx(precision[reached[np.argmax(thresholds[reached])]], abs=1e-12)


def test_the_macro_curve_is_the_mean_and_bands_contain_the_curve() -> None:
    predictions = make_predictions(passes=0)
    for curves in (roc_curves(predictions), precision_recall_curves(predictions)):
        assert curves.macro is not None
        mean = np.mean([curve.y for curve in curves.per_class.values()], axis=0)
        np.testing.assert_allclose(curves.macro.y, mean, atol=1e-12)
        for curve in (*curves.per_class.values(), curves.macro):
            assert (curve.low <= curve.high).all()
            assert ((curve.low <= curve.y + 0.02) & (curve.y <= curve.high + 0.02)).mean() > 0.9


def test_more_patients_narrow_the_band() -> None:
    width = []
    for n in (60, 600):
        macro = roc_curves(make_predictions(n=n, passes=0)).macro
        assert macro is not None
        width.append((macro.high - macro.low).mean())
    assert width[1] < 0.5 * width[0]


def test_classes_without_positives_or_negatives_have_no_curve() -> None:
    predictions = make_predictions(passes=0)
    predictions.labels[:] = 1
    assert roc_curves(predictions, 3).macro is None
    assert roc_curves(predictions, 3).per_class == {}
    alone = make_predictions(n=2, passes=0, classes=("a", "b"))
    alone.labels[:] = [[0], [1]]
    assert np.isnan(roc_curves(alone.select(np.array([0, 1])), 3).per_class["a"].y).sum() == 0
