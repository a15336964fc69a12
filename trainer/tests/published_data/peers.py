"""Times scikit-learn's and celer's lasso on the design that `solver.rs` left, and prints ratios to ours.

    pip install scikit-learn celer && python peers.py FOLDER

All stop at the same duality gap, as a share of the target's sum of squares, on the same grid of 100 penalties down to a thousandth of the
largest; cross-validation has the same ten folds, and two processes.
"""

import csv
import sys
import time
from pathlib import Path

import celer
import numpy as np
import sklearn
from sklearn.linear_model import LassoCV, lasso_path
from sklearn.model_selection import PredefinedSplit

TOLERANCE = 1e-6

folder = Path(sys.argv[1])
y = np.fromfile(folder / "target.f64")
folds = PredefinedSplit(np.fromfile(folder / "folds.f64").astype(int))
ours = {(row["columns"], row["what"]): row for row in csv.DictReader(open(folder / "ours.csv"))}
print(f"scikit-learn {sklearn.__version__}, celer {celer.__version__}, numpy {np.__version__}, {len(y)} rows, gap {TOLERANCE}")


def timed(columns, what, name, run):
    own = float(ours[columns, what]["seconds"])
    start = time.perf_counter()
    told = run()
    seconds = time.perf_counter() - start
    print(f"{columns} columns, {what}: {name} {seconds:.1f} s, ours {own:.2f} s, ratio {seconds / own:.1f} {told}", flush=True)


for columns in ["500", "4000"]:
    x = np.fromfile(folder / f"columns-{columns}.f64").reshape(int(columns), len(y)).T
    centred = y - y.mean()
    alphas = np.max(np.abs(x.T @ centred)) / len(y) * np.geomspace(1, 1e-3, 100)

    def celers_path():
        celer.celer_path(x, centred, pb="lasso", alphas=alphas, tol=TOLERANCE, max_iter=1000, max_epochs=100_000)
        return ""

    def sklearns_path():
        lasso_path(x, centred, alphas=alphas, tol=TOLERANCE, max_iter=100_000)
        return ""

    def cross_validated(make, **limits):
        def run():
            model = make(alphas=alphas, cv=folds, tol=TOLERANCE, n_jobs=2, **limits)
            model.fit(x, y)
            rmse = np.sqrt(model.mse_path_.mean(axis=1).min())
            return f"(best penalty {model.alpha_:.3e}, error {rmse:.5f}; ours {ours[columns, 'folds']['best_lambda']}, {ours[columns, 'folds']['rmse']})"

        return run

    timed(columns, "path", "celer", celers_path)
    timed(columns, "path", "scikit-learn", sklearns_path)
    timed(columns, "folds", "celer", cross_validated(celer.LassoCV, max_iter=1000, max_epochs=100_000))
    timed(columns, "folds", "scikit-learn", cross_validated(LassoCV, max_iter=100_000))
