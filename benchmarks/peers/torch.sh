#!/bin/sh
# Makes the environment that PyTorch runs in, beside and not inside Shoal's own, and prints its Python.
#
#     benchmarks/peers/torch.sh [FOLDER]       (default: .peers/torch at the top of the checkout)
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
folder=${1:-"$top/.peers/torch"}
if ! "$folder/bin/python" -c 'import torch' 2>/dev/null; then
    "${PYTHON:-python3}" -m venv "$folder" >&2
    "$folder/bin/python" -m pip install --quiet 'torch==2.13.0' numpy >&2
fi
echo "$folder/bin/python"
