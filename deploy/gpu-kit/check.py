#!/usr/bin/env python3
"""Looks at what a campaign on the simulated box left: `check.py DIR`.

The simulated board draws 400 W when one core is in full use, which is what a measured layer makes of it.
"""

import csv
import gzip
import json
import sys
from pathlib import Path

folder = Path(sys.argv[1])
rows = list(csv.DictReader((folder / "measurements.csv").open()))
layers = [row for row in rows if row["kind"] != "network"]
powered = [row for row in layers if row["power_w"]]
assert len(layers) >= 20, f"{len(layers)} layers"
assert len(powered) >= 3, f"{len(powered)} with power"
assert any(row["kind"] == "network" for row in rows), "no network was measured"
for row in powered:
    power = float(row["power_w"])
    assert 340 <= power <= 401, f"{power} W of 400 W: {row['subject']}"
    assert 55 <= float(row["idle_w"]) <= 120, f"{row['idle_w']} W of 60 W at rest"
    assert row["sensor"] == "nvml-total-energy" and row["procedure"] == "power-light/1"
whole = [json.loads(line) for line in gzip.open(folder / "measurements.ndjson.gz", "rt")]
assert len(whole) == len(rows)
assert (folder / "additivity.txt").read_text().strip(), "no additivity gap"
assert json.loads((folder / "models.json").read_text())
powers = sorted(float(row["power_w"]) for row in powered)
print(f"{len(layers)} layers, {len(powered)} with power: {powers[0]:.0f} to {powers[-1]:.0f} W where 400 W are true")
