#!/bin/sh
# Tests and benchmarks on a machine with a GPU, without network: benchmarks/device.sh [OUT] [options], see --help.
# The document goes to OUT, or the environment variable OUT, or benchmarks/results. Any python3 >= 3.11 with
# NumPy, SciPy, astropy, pytest and CuPy will do; packages that it lacks may come as wheels, with --wheels DIR. What
# it does is in device.py.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec "${PYTHON:-python3}" "$here/device.py" "$@"
