#!/usr/bin/env bash
# Train on a Slurm cluster.
#   [GPUS=2] [GPUS_PER_NODE=2] [CPUS_PER_TASK=8] [SRUN_ARGS=...] tools/slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of tools/train.py]
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [ $# -lt 3 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG [arguments of tools/train.py]" >&2
    exit 2
fi
partition=$1
job_name=$2
config=$3
shift 3
source "$tools/launch.sh"
require_config "$config"
launch_slurm "$partition" "$job_name" "$tools/train.py" "$config" "$@"
