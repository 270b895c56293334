#!/usr/bin/env bash
# Train on N processes of this machine: N GPUs, or N CPU processes where there is no GPU.
#   tools/dist_train.sh CONFIG N [arguments of tools/train.py]
# Environment: PYTHON (interpreter), PORT, OMP_NUM_THREADS; for several machines NNODES, NODE_RANK, MASTER_ADDR (and one PORT for all).
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG N [arguments of tools/train.py]" >&2
    exit 2
fi
config=$1
processes=$2
shift 2
source "$tools/launch.sh"
require_config "$config"
launch "$processes" "$tools/train.py" "$config" "$@"
