#!/usr/bin/env bash
# One machine with several GPUs. Starts a run, or goes on with the one in OUT.
#   bash torchrun.sh CACHE OUT mae_vit3d_gpu [more options of medssl pretrain]
set -euo pipefail
data=$1 out=$2 config=$3
shift 3
devices=${DEVICES:-$(nvidia-smi --list-gpus | wc -l)}
resume=()
if [ -f "$out/run.json" ]; then resume=(--resume); fi
exec torchrun --standalone --nproc-per-node "$devices" -m medssl pretrain \
    --config "$config" --config "${STRATEGY:-ddp}" --data "$data" --out "$out" --train.devices "$devices" "${resume[@]}" "$@"
