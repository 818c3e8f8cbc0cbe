#!/usr/bin/env bash
# The ladder of ablations of the association on a folder of pairs, as Markdown tables.
#
#   runs/ladder.sh DATA [frozen|supervised|unfrozen|cohort|trained|paper ...]
#
# DATA: folder with pairs/ (pairs.csv, voice/, face/, frontal/), librispeech/ (voices.csv, voice/) and, for the group
# `supervised`, utkface_adults/ (faces.csv, images/). Needs `pip install -e ".[train]"` and the upstream weights that
# runs/embedded.sh gets. Stopped, it goes on where it was. Frozen: about 15 minutes on one core; `supervised` finds 1,616
# faces first, a quarter of an hour; `cohort` starts from the embedded encoder's closed form (features: 20 minutes);
# `trained` and `paper` take hours on a CPU (SEEDS=1 FOLDS=0 shortens them).
set -euo pipefail

DATA=$(cd "${1:?usage: $0 DATA [GROUP ...]}" && pwd)
shift
cd "$(dirname "$0")/.."
OUT=runs/out
WEIGHTS=("$OUT/upstream/pretrained.pt" "$OUT/upstream/dlib_face_recognition_resnet_model_v1.dat")
PYTHON=${PYTHON:-python}
VOICESTYLE=("$PYTHON" -m voicestyle)
PLACES=(--set manifest="$OUT/pairs_strata.csv" --set cache="$OUT/cache"
    --set voice_weights="${WEIGHTS[0]}" --set face_weights="${WEIGHTS[1]}")
for file in "${WEIGHTS[@]}"; do
    [[ -f $file ]] || { echo "$file: missing; runs/embedded.sh gets it in its first step" >&2; exit 1; }
done

# 1. manifests; the sex of train voices as a classifier of other people's voices hears it, for strata alone
[[ -f $OUT/pairs.csv ]] || "${VOICESTYLE[@]}" data prepare pairs "$DATA/pairs" -o "$OUT/pairs.csv"
[[ -f $OUT/librispeech.csv ]] || "${VOICESTYLE[@]}" data prepare table "$DATA/librispeech/voices.csv" \
    --column voice=file --column key=file --column identity=speaker -o "$OUT/librispeech.csv"
[[ -f $OUT/pairs_strata.csv ]] || "$PYTHON" benchmarks/strata.py "$OUT/pairs.csv" --labeled "$OUT/librispeech.csv" \
    --cache "$OUT/cache" --voice-weights "${WEIGHTS[0]}" --face-weights "${WEIGHTS[1]}" -o "$OUT/pairs_strata.csv"

# 2. the ladder
for group in "${@:-frozen}"; do
    if [[ $group == supervised ]]; then
        [[ -f $OUT/utkface.csv ]] || {
            "${VOICESTYLE[@]}" data prepare table "$DATA/utkface_adults/faces.csv" \
                --column face=file --column key=file --column identity=file -o "$OUT/utkface_all.csv"
            awk 'NR == 1 || NR % 8 == 2' "$OUT/utkface_all.csv" > "$OUT/utkface_unboxed.csv" # 1,616 of 12,922
            "${VOICESTYLE[@]}" data prepare boxes "$OUT/utkface_unboxed.csv" -o "$OUT/utkface.csv"
        }
        PLACES+=(--set supervision.voices="$OUT/librispeech.csv" --set supervision.faces="$OUT/utkface.csv")
    fi
    [[ $group != cohort ]] || PLACES+=(--set second_voice_weights="$OUT/upstream/campplus_cn_en_common.pt"
        --set second_face_weights="$OUT/upstream/faceres-deep.json")
    "$PYTHON" benchmarks/association_ladder.py -o "$OUT/ladder" --group "$group" --seeds "${SEEDS:-5}" \
        --folds "${FOLDS:-5}" "${PLACES[@]}" | tee "$OUT/ladder_$group.md"
done
