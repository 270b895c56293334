#!/usr/bin/env bash
# Compile MMCV 2.1.0 with its ops for the PyTorch of an environment, and leave a wheel:
#
#   PYTHON=.venv/bin/python bash tools/misc/compile_mmcv.sh FOLDER
#
# It takes about half an hour on two cores, and needs a C++ compiler (for the ops of a GPU CUDA's as well) and
# `setuptools<81` in the environment; without `ninja` files are compiled one by one. MAX_JOBS: how many at once.
set -euo pipefail

VERSION=2.1.0
PYTHON=$(command -v "${PYTHON:-python}")
folder=${1:?"usage: PYTHON=python bash $0 FOLDER"}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
source_dir=$(mktemp -d)
trap 'rm -rf "$source_dir"' EXIT

"$PYTHON" -m pip download --no-deps --no-build-isolation --no-binary mmcv --dest "$source_dir" "mmcv==$VERSION"
tar -xzf "$source_dir/mmcv-$VERSION.tar.gz" -C "$source_dir"
setup="$source_dir/mmcv-$VERSION/setup.py"
# The release asks for C++17, whose flag stands behind those of CXXFLAGS and wins; newer PyTorch refuses it. -O1 saves time.
sed -i "s/'-std=c++17'/'-std=c++20', '-O1'/" "$setup"
grep -q "'-std=c++20', '-O1'" "$setup" || { echo "error: $setup has no '-std=c++17' to replace" >&2; exit 1; }

PATH="$(cd "$(dirname "$PYTHON")" && pwd):$PATH"  # An environment's own ninja.
export MMCV_WITH_OPS=1 MAX_JOBS="${MAX_JOBS:-$(getconf _NPROCESSORS_ONLN)}"
"$PYTHON" -m pip wheel --verbose --no-deps --no-build-isolation --wheel-dir "$folder" "$source_dir/mmcv-$VERSION"
