#!/usr/bin/env python3
"""Makes statistics.json: small inputs, and what numpy, scipy and scikit-learn compute from them.

usage: vector_statistics.py OUT_FILE

Needs numpy, scipy and scikit-learn. The tests of pv-statistics and pv-vectors read the file.
"""
import json
import sys

import numpy as np
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

rng = np.random.default_rng(20250729)


def f32(x):
    return np.asarray(x, dtype=np.float32)


def numbers(x):
    return [float(v) for v in np.asarray(x).ravel()]


def aucs():
    cases = [([2, 3], [1, 2]), ([1, 1, 1], [1, 1]), ([0.0, -0.0, 5], [0.0, -3]), ([1], [2]), ([2], [1])]
    for n, m, values in [(7, 11, 4), (40, 25, 6), (60, 80, 1000), (33, 200, 2)]:
        cases.append((rng.integers(0, values, n) + 0.5, rng.integers(0, values, m)))
        cases.append((rng.integers(0, values, n), rng.integers(0, values, m)))
    for pos, neg in cases:
        labels = [1] * len(pos) + [0] * len(neg)
        auc = roc_auc_score(labels, np.concatenate([pos, neg]))
        u = stats.mannwhitneyu(pos, neg).statistic / (len(pos) * len(neg))
        assert abs(auc - u) < 1e-12
        yield {"pos": numbers(pos), "neg": numbers(neg), "auc": auc}


def rows(n, m, d, gap, scale=1.0, offset=0.0):
    """Two clouds whose means differ along a fixed direction, around a common offset."""
    axis = rng.normal(size=d)
    axis /= np.linalg.norm(axis)
    spread = np.exp(rng.normal(size=d) * 0.5)
    shift = offset * rng.normal(size=d)
    cloud = lambda k, sign: f32(scale * (rng.normal(size=(k, d)) * spread + sign * gap / 2 * axis) + shift)
    return cloud(n, 1), cloud(m, -1)


def principal():
    for n, d, gap, offset in [(30, 8, 2.0, 0.0), (6, 24, 3.0, 5.0), (12, 12, 1.0, 100.0), (2, 5, 1.0, 0.0)]:
        pos, neg = rows(n, n, d, gap, offset=offset)
        diff = pos.astype(np.float64) - neg.astype(np.float64)
        mean = diff.mean(0)
        case = {"d": d, "pos": numbers(pos), "neg": numbers(neg)}
        for name, table in [("origin", diff), ("mean", diff - mean)]:
            _, s, vt = np.linalg.svd(table, full_matrices=False)
            axis = vt[0] if vt[0] @ mean >= 0 else -vt[0]
            case[name] = {"axis": numbers(axis), "explained": float(s[0] ** 2 / (s**2).sum())}
        fitted = PCA(n_components=1, svd_solver="full").fit(diff)
        assert abs(fitted.explained_variance_ratio_[0] - case["mean"]["explained"]) < 1e-9
        assert abs(abs(fitted.components_[0] @ case["mean"]["axis"]) - 1) < 1e-9
        yield case


def probes():
    for n, m, d, gap, scale, offset, c in [
        (30, 24, 6, 2.0, 1.0, 0.0, 1.0),
        (30, 24, 6, 1.0, 1.0, 3.0, 0.01),
        (12, 15, 40, 3.0, 1.0, 1.0, 0.1),
        (12, 15, 40, 3.0, 50.0, 200.0, 1e-4),
        (20, 20, 20, 1.0, 0.01, 0.0, 100.0),
    ]:
        pos, neg = rows(n, m, d, gap, scale, offset)
        # Each side's rollouts belong to five questions.
        groups = [np.arange(k) % 5 for k in (n, m)]
        x = np.concatenate([pos, neg]).astype(np.float64)
        y = np.array([1] * n + [0] * m)
        # Centred for the solver's sake: the intercept is free, so that only it changes.
        mean = x.mean(0)
        model = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-12, max_iter=1000)
        model.fit(x - mean, y)
        decisions = cross_val_predict(
            model, x - mean, y, groups=np.concatenate(groups), cv=LeaveOneGroupOut(), method="decision_function"
        )
        yield {
            "d": d, "c": c, "pos": numbers(pos), "neg": numbers(neg),
            "pos_questions": groups[0].tolist(), "neg_questions": groups[1].tolist(),
            "weights": numbers(model.coef_[0]),
            "logits": numbers(model.decision_function(x - mean)),
            "accuracy": float(((decisions > 0) == (y == 1)).mean()),
            "auc": float(roc_auc_score(y, decisions)),
        }


def effects():
    for n, m in [(2, 2), (9, 30)]:
        pos, neg = rng.normal(size=n) + 1.3, rng.normal(size=m) * 2
        pooled = np.sqrt(((n - 1) * pos.var(ddof=1) + (m - 1) * neg.var(ddof=1)) / (n + m - 2))
        d = (pos.mean() - neg.mean()) / pooled
        # Student's t is d with another factor.
        assert abs(stats.ttest_ind(pos, neg).statistic / np.sqrt(n * m / (n + m)) - d) < 1e-9
        yield {"pos": numbers(pos), "neg": numbers(neg), "d": float(d)}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    found = {"auc": list(aucs()), "principal": list(principal()), "probe": list(probes()), "effect": list(effects())}
    with open(sys.argv[1], "w") as file:
        json.dump(found, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
