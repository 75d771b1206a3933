#!/bin/sh
# Makes the environment that Flower runs in, beside and not inside Shoal's own, and prints its Python.
#
#     benchmarks/peers/flower.sh [FOLDER]      (default: .peers/flower at the top of the checkout)
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
folder=${1:-"$top/.peers/flower"}
if ! "$folder/bin/python" -c 'import flwr' 2>/dev/null; then
    "${PYTHON:-python3}" -m venv "$folder" >&2
    "$folder/bin/python" -m pip install --quiet 'flwr==1.41.0' >&2
fi
echo "$folder/bin/python"
