#!/usr/bin/env bash
# Runs the kit as a GPU box would, but on the CPU, and with the simulated NVIDIA driver for its power; stops it early, goes
# on from there, and looks at what it leaves.
#
#     LIBTORCH=... deploy/gpu-kit/test.sh KIT RELEASE
set -euo pipefail
kit=$(realpath "$1") release=$(realpath "$2")
here=$(realpath "$(dirname "${BASH_SOURCE[0]}")")
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

export WATTFARM_LIBTORCH_LIB=$LIBTORCH/lib
export WATTFARM_NVML_LIBRARY=$release/libwattfarm_nvml_sim.so
export WATTFARM_NVML_SIM=$here/simulated-box.json

# Stopped early: it leaves its files all the same.
"$kit/run.sh" --minutes 10 --out "$out/campaign" --device cpu --networks neuralpower/cifar10-6conv &
running=$!
sleep "${STOP_AFTER:-85}"
kill -TERM $running
status=0; wait $running || status=$?
[ $status = 130 ] || { echo "stopped early, it ended with $status" >&2; exit 1; }
before=$(wc -l < "$out/campaign/measurements.csv")

# And goes on, to its end.
"$kit/run.sh" --minutes "${MINUTES:-2}" --resume "$out/campaign" --device cpu --networks neuralpower/cifar10-6conv
after=$(wc -l < "$out/campaign/measurements.csv")

cat "$out/campaign/report.md"
echo "$before rows when stopped, $after at the end"
[ "$after" -gt "$before" ]
[ "$(find "$out/campaign" -type f | wc -l)" -le 8 ]
python3 "$here/check.py" "$out/campaign"
