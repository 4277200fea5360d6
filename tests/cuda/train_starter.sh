#!/bin/sh
# Train the starter's decoder on a borrowed card, in one command that ends in time, and leave what came of it in $OUT.
# From the root of a checkout, with speech in /tmp/speech or in a prepared folder:
#   sh tests/cuda/train_starter.sh [--minutes 9] [--from CKPT] [--prepared DIR] [--tiny] [A.B=C ...]
# A second call on the same machine resumes the run. On another one, join what came back and go on from it:
#   cat OUT/decoder.safetensors.* > decoder.safetensors; sh tests/cuda/train_starter.sh --from decoder.safetensors
# `--tiny` tries the script itself on a CPU, with the bundled clips.
cd "$(dirname "$0")/../.." || exit 1
started=$(date +%s)
minutes=9 from=starter prepared=/tmp/prepared speech=/tmp/speech run=/tmp/run device=cuda workers=16 kept=60 tiny= sets=
while [ $# -gt 0 ]; do
    case $1 in
        --minutes) minutes=$2 && shift ;;
        --from) from=$2 && shift ;;
        --prepared) prepared=$2 && shift ;;
        --tiny) tiny=1 device=cpu workers=1 ;;
        *) sets="$sets --set $1" ;;
    esac
    shift
done
[ -f .card/setup.sh ] && . .card/setup.sh
if [ -n "$tiny" ]; then
    speech=codecctl/assets/clips prepared=$(mktemp -d)/prepared run=$(mktemp -d)/run
    sets="$sets --set train.batch_size=2 --set train.precision=float32 --set validate.n_utterances=2"
    sets="$sets --set data.validation_share=0.4"
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 OUT="${OUT:-out}"
mkdir -p "$OUT"
# Of the command's time, so much is kept for the validation, the export and the copies.
left() { echo $((minutes * 60 - kept - $(date +%s) + started)); }
codecctl() { python3 -m codecctl.cli.main "$@"; }

{
    [ -f "$prepared/manifest.jsonl" ] || codecctl prepare $speech --out "$prepared" --workers $workers || exit 1
    sets="$sets --set data.n_workers=$workers --set validate.metrics=[] --set train.log_every_steps=20"
    if [ -f "$run/last.pt" ]; then
        codecctl resume "$run" --device $device --max-minutes "$(echo "$(left)" | awk '{print $1 / 60}')"
    else
        pace=$(python3 -m tests.cuda.pace starter-adversarial "$(left)" --device $device --data "$prepared" $sets) || exit 1
        echo "pace: $pace"
        codecctl train --config starter-adversarial --from "$from" --data "$prepared" --run "$run" --device $device \
            --max-minutes "$(echo "$(left)" | awk '{print $1 / 60}')" $sets $pace
    fi
    [ -f "$run/last.pt" ] || exit 1
    codecctl export "$run/last.pt" -o "$run/decoder.safetensors" --precision float32
    split -b 15M -d "$run/decoder.safetensors" "$OUT/decoder.safetensors."
    cp "$run/metrics.jsonl" "$run/config.yaml" "$OUT"
    timeout -k 5 $kept python3 -m codecctl.cli.main validate "$run/last.pt" --against starter --limit 24 \
        --workers $workers --device $device $sets --set 'validate.metrics=[stoi]'
} 2>&1 | tee "$OUT/log"
ls -l "$OUT"
