"""A whole model of random weights that runs in milliseconds, and a voice to try it on."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F

from voicestyle.checkpoint import save_model
from voicestyle.config import EncoderConfig, GeneratorConfig, VoiceStyleConfig
from voicestyle.latent import w_statistics
from voicestyle.nn.encoder import VoiceFaceEncoder
from voicestyle.nn.stylegan2 import Generator
from voicestyle.prototypes import PrototypeBank
from voicestyle.weights import fingerprint

CONFIG = VoiceStyleConfig.tiny()
VOICE = Path(__file__).resolve().parents[1] / "examples" / "slt.flac"  # a synthetic voice


def tiny_generator(seed: int = 0) -> Generator:
    """Frozen, with its statistics of w."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = Generator(GeneratorConfig.tiny()).eval().requires_grad_(False)
    generator.w_avg[:], generator.w_std[...] = w_statistics(generator, 1000)
    return generator


def tiny_encoder(seed: int = 0) -> VoiceFaceEncoder:
    """Frozen."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return VoiceFaceEncoder(EncoderConfig.tiny()).eval().requires_grad_(False)


def tiny_bank(encoder: VoiceFaceEncoder, generator: Generator, num_members: int = 40, k: int = 6) -> PrototypeBank:
    """Prototypes of random embeddings and latents, two members an identity."""
    rng = torch.Generator().manual_seed(0)
    emb = F.normalize(torch.randn(num_members, CONFIG.encoder.embed_dim, generator=rng), dim=1)
    w = generator.mapping(torch.randn(num_members, CONFIG.generator.z_dim, generator=rng))
    people = [i // 2 for i in range(num_members)]
    return PrototypeBank.build(
        emb, w, people, k, encoder_fingerprint=fingerprint(encoder), generator_fingerprint=fingerprint(generator)
    )


@cache
def parts() -> tuple[VoiceFaceEncoder, Generator, PrototypeBank]:
    """The networks and the bank that `save_tiny` writes."""
    encoder, generator = tiny_encoder(), tiny_generator()
    return encoder, generator, tiny_bank(encoder, generator)


def save_tiny(folder: Path) -> Path:
    """A model folder of `parts`."""
    return save_model(folder, CONFIG, *parts(), {"sources": {"upstream.bin": "0" * 64}})
