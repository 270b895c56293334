# Sourced by dist_*.sh and slurm_*.sh, which set `tools`: starts one script on several processes.

# require_file WHAT PATH: stop with one line before any process starts.
require_file() {
    if [ ! -f "$2" ]; then
        echo "$0: $1 file not found: $2" >&2
        exit 2
    fi
}

# require_config NAME: as require_file, but a name of the model index passes, and a path in the package.
require_config() {
    case $1 in
    */* | *.*) [ -f "$tools/../$1" ] || require_file config "$1" ;;
    esac
}

# require_checkpoint PATH: as require_file, but an address passes.
require_checkpoint() {
    case $1 in
    *://* | -) ;; # - : the model needs none
    *) require_file checkpoint "$1" ;;
    esac
}

# The interpreter: PYTHON, else that of an active environment, else the one that `make` built beside tools/, else python3.
find_python() {
    if [ -n "${PYTHON:-}" ]; then
        echo "$PYTHON"
    elif [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && command -v python >/dev/null; then
        echo python
    elif [ -x "$tools/../.venv/bin/python" ]; then
        echo "$tools/../.venv/bin/python"
    else
        command -v python3 >/dev/null && echo python3 || echo python
    fi
}

# launch N SCRIPT ARGUMENTS...: N processes here, of NNODES machines.
launch() {
    local processes=$1 script=$2 python
    shift 2
    case $processes in
    '' | *[!0-9]* | 0)
        echo "$0: the number of processes must be a positive integer, not '$processes'" >&2
        exit 2
        ;;
    esac
    python=$(find_python)
    export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"
    export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} # as mmetris/threads.py explains
    if [ -z "${OMP_NUM_THREADS:-}" ]; then
        # Share the cores out; without this, torch's launcher sets one thread per process.
        OMP_NUM_THREADS=$("$python" -m mmetris.threads "$processes")
        export OMP_NUM_THREADS
    fi
    if [ "${NNODES:-1}" -eq 1 ] && [ -z "${PORT:-}" ]; then
        # A free port, so that two trainings on one machine do not meet.
        PORT=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    fi
    exec "$python" "$tools/misc/launch_processes.py" \
        --nnodes="${NNODES:-1}" \
        --node_rank="${NODE_RANK:-0}" \
        --master_addr="${MASTER_ADDR:-127.0.0.1}" \
        --master_port="${PORT:-29500}" \
        --nproc_per_node="$processes" \
        "$script" "$@" --launcher pytorch
}

# launch_slurm PARTITION JOB_NAME SCRIPT ARGUMENTS...: one task for each of GPUS GPUs.
launch_slurm() {
    local partition=$1 job_name=$2 script=$3 gpus=${GPUS:-2} python
    local per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
    shift 3
    python=$(find_python)
    export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"
    export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
    # SRUN_ARGS holds several arguments: it is split on purpose.
    # shellcheck disable=SC2086
    exec srun --partition="$partition" \
        --job-name="$job_name" \
        --gres=gpu:"$per_node" \
        --ntasks="$gpus" \
        --ntasks-per-node="$per_node" \
        --cpus-per-task="${CPUS_PER_TASK:-8}" \
        --kill-on-bad-exit=1 \
        ${SRUN_ARGS:-} \
        "$python" -u "$script" "$@" --launcher slurm
}
