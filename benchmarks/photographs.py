"""How much a model's faces look like photographs: against portraits that were held out, as Markdown.

    python benchmarks/photographs.py MODEL... --portraits portraits.csv --features efficientnet-lite1-77cc7160.pth

MODEL: names or folders; PORTRAITS: a manifest as `voicestyle data prepare portraits` makes it, whose split `val` no
model has seen. Frechet distance, precision and recall (k = 3) are of EfficientNet-Lite1's last feature map, averaged
over places, 320 numbers: not those of Inception, to be compared with one another alone. Smaller pictures are enlarged.
Fine detail: mean |x - x halved and enlarged| where the face is, over that of the portraits. Nearest: dlib distance of
samples to the nearest portrait of split `train`, in percent of samples below DISTANCE. About four minutes on a core.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from voicestyle.checkpoint import Model, load_model
from voicestyle.convert.efficientnet import read_efficientnet
from voicestyle.data.manifest import Manifest
from voicestyle.evaluate.distances import frechet_distance, precision_recall
from voicestyle.image import load_image
from voicestyle.nn.efficientnet import EfficientNet
from voicestyle.sampling import random_latents

SIZE = 256
MEAN_OF = 8  # members, as many as the method takes
DISTANCE = 0.45  # of dlib's features: same-person pairs of test pictures lie below 0.6, most below this


def fine_detail(image: Tensor) -> float:
    """What halving takes away from pictures (N,3,S,S), where the face is."""
    soft = F.interpolate(F.avg_pool2d(image, 2), scale_factor=2, mode="bilinear", align_corners=False)
    size = image.shape[-1]
    return (image - soft).abs()[:, :, size // 4 : size * 7 // 8, size // 4 : size * 3 // 4].mean().item()


@torch.no_grad()
def drawn(model: Model, w: Tensor) -> Tensor:
    """Pictures (N,3,SIZE,SIZE) of latents, enlarged where the model draws smaller ones."""
    parts = [model.generator.synthesis(part).clamp(-1, 1) for part in tqdm(w.split(10), leave=False)]
    image = torch.cat(parts)
    if image.shape[-1] == SIZE:
        return image
    return F.interpolate(image, size=SIZE, mode="bicubic", align_corners=False).clamp(-1, 1)


@torch.no_grad()
def features(network: EfficientNet, image: Tensor) -> np.ndarray:
    """Features (N,320), float64."""
    return torch.cat([network(part)[-1].mean((2, 3)) for part in image.split(20)]).double().numpy()


@torch.no_grad()
def identity(model: Model, image: Tensor) -> Tensor:
    """dlib's features (N,128)."""
    return torch.cat([model.encoder.face_features(part)[:, :128] for part in image.split(20)])


def score(name: str, network: EfficientNet, real: Tensor, known: np.ndarray, train: Tensor | None, num: int) -> str:
    """A line of the table."""
    model = load_model(name)
    samples = drawn(model, random_latents(model.generator, num))
    found = features(network, samples)
    groups = model.bank.latents[torch.randperm(len(model.bank.latents), generator=torch.Generator().manual_seed(0))]
    whole = fine_detail(real)
    members = drawn(model, groups[:64])
    means = drawn(model, groups[: 64 * MEAN_OF].view(64, MEAN_OF, -1).mean(1))
    precision, recall = precision_recall(known, found)
    cells = [f"{frechet_distance(known, found):.1f}", f"{precision:.2f}", f"{recall:.2f}"]
    cells += [f"{fine_detail(image) / whole:.2f}" for image in (samples, members, means)]
    if train is None:
        cells.append("not measured")
    else:
        near = torch.cdist(identity(model, samples[:100]), train).amin(1)
        cells.append(f"{100 * (near < DISTANCE).float().mean():.0f} % (median {near.median():.2f})")
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--portraits", required=True)
    parser.add_argument("--features", required=True)
    parser.add_argument("--num", type=int, default=300)
    parser.add_argument("--nearest", action="store_true", help="search the training portraits too: minutes more")
    options = parser.parse_args()
    network = read_efficientnet(options.features)
    manifest = Manifest.read(options.portraits)
    real = torch.cat([load_image(item.frontal, SIZE) for item in manifest.split("val") if item.frontal])
    known = features(network, real)
    train = None
    if options.nearest:
        paths = [item.frontal for item in manifest.split("train") if item.frontal]
        train = torch.cat([identity(load_model(), load_image(path, SIZE)) for path in tqdm(paths, leave=False)])
    order = np.random.default_rng(0).permutation(len(known))
    half = len(known) // 2
    print("| faces | Frechet | precision | recall | detail: samples | members | means of 8 | nearest portrait |")
    print("|---|---|---|---|---|---|---|---|")
    floor = frechet_distance(known[order[:half]], known[order[half:]])
    print(f"| two halves of the held-out portraits ({half} each) | {floor:.1f} | - | - | 1.00 | - | - | - |")
    for name in options.models:
        print(score(name, network, real, known, train, options.num), flush=True)


if __name__ == "__main__":
    main()
