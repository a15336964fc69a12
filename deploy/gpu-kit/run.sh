#!/usr/bin/env bash
# Measures this machine's GPU: ./run.sh --minutes 9 --out DIR. README.md tells what is needed and what it leaves.
exec "${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/kit.py" "$@"
