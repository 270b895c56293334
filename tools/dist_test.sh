#!/usr/bin/env bash
# Score a checkpoint on N processes of this machine: N GPUs, or N CPU processes where there is no GPU.
#   tools/dist_test.sh CONFIG CHECKPOINT N [arguments of tools/test.py]
# Environment: as for tools/dist_train.sh.
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT N [arguments of tools/test.py]" >&2
    exit 2
fi
config=$1
checkpoint=$2
processes=$3
shift 3
source "$tools/launch.sh"
require_config "$config"
require_checkpoint "$checkpoint"
launch "$processes" "$tools/test.py" "$config" "$checkpoint" "$@"
