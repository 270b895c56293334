#!/usr/bin/env bash
# Score a checkpoint on a Slurm cluster.
#   [GPUS=2] [GPUS_PER_NODE=2] [CPUS_PER_TASK=8] [SRUN_ARGS=...] tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of tools/test.py]
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [ $# -lt 4 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of tools/test.py]" >&2
    exit 2
fi
partition=$1
job_name=$2
config=$3
checkpoint=$4
shift 4
source "$tools/launch.sh"
require_config "$config"
require_checkpoint "$checkpoint"
launch_slurm "$partition" "$job_name" "$tools/test.py" "$config" "$checkpoint" "$@"
