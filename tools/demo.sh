#!/usr/bin/env bash
# What `make demo` does: draw Shapes, train a tiny ETRIS on two processes, score it on two processes, draw its masks.
#   [PYTHON=python] [CONFIG=...] [DATA=data/shapes] [WORK=work_dirs/demo] tools/demo.sh [arguments of tools/train.py]
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$tools/launch.sh"
python=$(find_python)
case $python in
/*) ;;
*/*) python=$PWD/$python ;;  # relative to where the caller stands
esac
cd "$tools/.."
export PYTHON=$python

config=${CONFIG:-configs/etris/etris_tiny_shapes.py}
data=${DATA:-data/shapes}
work=${WORK:-work_dirs/demo}
start=$SECONDS

step() { echo; echo "== $* ($((SECONDS - start)) s)"; }

step "1/4 drawing Shapes into $data"
"$python" tools/dataset_tools/make_shapes.py "$data" --workers 2

step "2/4 training $config on 2 processes"
bash tools/dist_train.sh "$config" 2 --work-dir "$work" --overwrite "$@"

checkpoint=$(ls -t "$work"/best_*.pth | head -n 1)
# Of the config's three splits only val, for the time's sake.
step "3/4 scoring $checkpoint on 2 processes, drawing every 20th sentence"
bash tools/dist_test.sh "$config" "$checkpoint" 2 --split val --work-dir "$work/test" --show-dir pictures \
    --cfg-options default_hooks.visualization.test_interval=20 | tee "$work/test.log"

step "4/4 one sheet of pictures"
pictures=$(find "$work/test" -type d -name pictures | sort | tail -n 1)
"$python" tools/misc/contact_sheet.py "$pictures" "$work/sheet.png" --columns 2 --number 16

echo
echo "pictures: $pictures    sheet: $work/sheet.png    log: $work    ($((SECONDS - start)) s)"
grep -E '^val: ' "$work/test.log"
