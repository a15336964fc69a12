"""Makes golden.json: lasso fits by scikit-learn, to which trainer/src/lasso is held.

    pip install scikit-learn numpy && python make.py

Columns are standardised by their weighted mean and standard deviation first, as our lasso does; then Lasso's
objective, 1/(2 sum w) sum w (y - Xb)^2 + alpha |b|_1, is ours with lambda = alpha. Coefficients are on the raw scale.
"""

import json
import pathlib

import numpy as np
import sklearn
from sklearn.linear_model import Lasso

ROWS, COLUMNS, SEED = 60, 20, 20170417

random = np.random.default_rng(SEED)
common = random.normal(size=(ROWS, 1))
x = (0.6 * common + 0.8 * random.normal(size=(ROWS, COLUMNS)) + random.normal(size=COLUMNS)) * np.logspace(-3, 3, COLUMNS)
effects = np.zeros(COLUMNS)
effects[[0, 3, 7, 12]] = [1.5, -1.0, 0.5, 0.25]
y = 4.0 + (x / x.std(axis=0)) @ effects + 0.3 * random.normal(size=ROWS)
w = random.uniform(0.2, 1.2, size=ROWS)

fits = []
for weighted in (False, True):
    weights = w if weighted else np.ones(ROWS)
    mean = np.average(x, axis=0, weights=weights)
    deviation = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weights))
    z = (x - mean) / deviation
    centred = y - np.average(y, weights=weights)
    lambda_max = np.abs(z.T @ (weights * centred)).max() / weights.sum()
    for share in (0.3, 0.05, 0.005):
        alpha = share * lambda_max
        model = Lasso(alpha=alpha, tol=1e-15, max_iter=1_000_000).fit(z, y, sample_weight=weights)
        b = model.coef_ / deviation
        fits.append({
            "weighted": weighted,
            "lambda": float(alpha),
            "coefficients": b.tolist(),
            "intercept": float(model.intercept_ - b @ mean),
        })

golden = {
    "made_by": f"make.py with scikit-learn {sklearn.__version__}, numpy {np.__version__}",
    "columns": x.T.tolist(),
    "target": y.tolist(),
    "weights": w.tolist(),
    "fits": fits,
}
path = pathlib.Path(__file__).with_name("golden.json")
path.write_text(json.dumps(golden, indent=None, separators=(",", ":")).replace("],", "],\n") + "\n")
for fit in fits:
    print(fit["weighted"], fit["lambda"], np.count_nonzero(fit["coefficients"]))
