"""Whether a converted network is the one of its file: tensors there and back again, and what both compute."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from voicestyle.audio import log_mel
from voicestyle.convert import cmpc, ir_se50, stylegan2
from voicestyle.nn.arcface import FRAME_SIZE, IRSE50
from voicestyle.nn.encoder import VoiceFaceEncoder
from voicestyle.nn.stylegan2 import Generator
from voicestyle.weights import stored

DTYPE = torch.float32  # what converted weights are stored in; float16 would cost more than the tolerance
TOLERANCE = 1e-4  # relative, of pictures and embeddings
State = Mapping[str, Tensor]


def check_encoder(encoder: VoiceFaceEncoder, state: State, seed: int = 0) -> dict[str, float]:
    """The largest relative difference of the embeddings of a random clip and of a random picture.

    Args:
        encoder: as it was converted
        state: what its file holds, under the reference's names
        seed: of the inputs

    Raises:
        ValueError: a tensor or an embedding that differs
    """
    rng = torch.Generator().manual_seed(seed)
    mel = log_mel(0.1 * torch.randn(5 * 16000, generator=rng), encoder.config.log_mel)[None]
    size = encoder.config.image.size
    image = torch.rand(1, 3, size, size, generator=rng) * 2 - 1
    outputs = {"voice": lambda e: e.encode_voice(mel), "face": lambda e: e.encode_face(image)}
    return _compare(encoder, state, cmpc.to_reference, cmpc.from_reference, outputs)


def check_generator(generator: Generator, state: State, seed: int = 0) -> dict[str, float]:
    """The same for the picture that a generator renders of a random latent."""
    config = generator.config
    z = torch.randn(1, config.z_dim, generator=torch.Generator().manual_seed(seed))

    def there(ours: State) -> State:
        return stylegan2.to_rosinality(ours, config)

    def back(theirs: State) -> State:
        ours = stylegan2.from_rosinality(dict(theirs), stylegan2.generator_keys(config))
        return ours | {"w_avg": generator.w_avg, "w_std": generator.w_std}

    return _compare(generator, state, there, back, {"picture": lambda g: g.synthesis(g.mapping(z))})


def check_identity(network: IRSE50, state: State, seed: int = 0) -> dict[str, float]:
    """The same for the features that the identity loss takes of a random picture."""
    rng = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 3, FRAME_SIZE, FRAME_SIZE, generator=rng) * 2 - 1
    outputs = {"identity": lambda n: n.identity_features(image)}
    return _compare(network, state, ir_se50.to_reference, ir_se50.from_reference, outputs)


@torch.no_grad()
def _compare(
    network: nn.Module,
    state: State,
    there: Callable[[State], State],
    back: Callable[[State], State],
    outputs: Mapping[str, Callable[[nn.Module], Tensor]],
) -> dict[str, float]:
    """The outputs of a network and of one whose weights have gone to the file's names and shapes and back."""
    foreign = there(stored(network.state_dict(), DTYPE))
    changed = [key for key, value in foreign.items() if key in state and not torch.equal(value, state[key].to(value))]
    if changed:
        raise ValueError(f"conversion: {len(changed)} tensors differ from the file's, e.g. {changed[:3]}")
    other = copy.deepcopy(network)
    other.load_state_dict(back(foreign))
    differences = {}
    for name, output in outputs.items():
        want, got = output(network), output(other)
        differences[name] = float((got - want).abs().max() / want.abs().max())
        if not differences[name] <= TOLERANCE:  # NaN too
            raise ValueError(f"conversion: {name} differs by {differences[name]:.1e}, expected at most {TOLERANCE:.0e}")
    return differences
