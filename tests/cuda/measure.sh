#!/bin/sh
# The tests of a card, then the kernels of a step and training steps in several variants, in seven minutes at most, and one
# table of all at the end.
# From the root of a checkout with the package's requirements on PYTHONPATH:  sh tests/cuda/measure.sh
# A part that fails or takes too long stops none of the others. `--tiny` tries the script itself on a CPU.
cd "$(dirname "$0")/../.." || exit 1
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTORCH_NVML_BASED_CUDA_CHECK=1
table=$(mktemp)
export TORCHINDUCTOR_CACHE_DIR=$(mktemp -d)  # a compiler that is stopped here leaves a half-written kernel behind
python3 - <<'P'
import torch
card = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
name = f"{card.name}, {card.total_memory / 1e9:.0f} GB" if card else "no card"
print(f"{name}; torch {torch.__version__}, CUDA {torch.version.cuda}")
P
timeout -k 5 110 python3 -m tests.cuda.measure --compile "$@" &
timeout -s INT -k 5 110 python3 -m pytest tests/cuda -m cuda -n 0 -q -p no:cacheprovider 2>&1 | tee -a "$table"
wait
timeout -k 5 310 python3 -m tests.cuda.measure "$@" 2>&1 | tee -a "$table"
echo
grep '^|' "$table"
rm -rf "$table" "$TORCHINDUCTOR_CACHE_DIR"
