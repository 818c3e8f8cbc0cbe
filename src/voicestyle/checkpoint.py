"""Model folders: ``config.json``, a safetensors file for each network and for the prototypes, ``README.md``.

Weights are stored as float16 where that is exact enough (matrices and kernels of networks that were trained here), as
int8 where `int8.rounded` has made them so that it is exact, or as float32 (converted ones, which are to give what the
authors' files give), and are float32 once loaded. A network's fingerprint is that of its float16 form, so it is the
same before saving and after loading, in any type.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from voicestyle import hub
from voicestyle.config import VoiceStyleConfig
from voicestyle.embedded import CONFIG, EMBEDDED, MODELS, embedded_models
from voicestyle.files import folder_written_whole, read_tensors
from voicestyle.nn.arcface import IRSE50
from voicestyle.nn.encoder import VoiceFaceEncoder
from voicestyle.nn.inverter import Inverter
from voicestyle.nn.mapper import Mapper
from voicestyle.nn.stylegan2 import Generator
from voicestyle.prototypes import PrototypeBank, is_fingerprint
from voicestyle.schema import SettingsFile, read, to_dict
from voicestyle.weights import fingerprint, is_finite, restored, stored

Part = TypeVar("Part")

FORMAT_VERSION = 1
HEADER = ("format_version", "part", "license", "fingerprint")  # of each part, beside the caller's metadata
ENCODER, GENERATOR, IDENTITY, INVERTER, MAPPER, PROTOTYPES, CARD = (
    "encoder.safetensors",
    "generator.safetensors",
    "identity.safetensors",
    "inverter.safetensors",
    "mapper.safetensors",
    "prototypes.safetensors",
    "README.md",
)
SUGGESTION = "suggestion.safetensors"  # fitted for a finished model: `suggestion.Suggestion`


@dataclass(frozen=True, eq=False)
class Model:
    """The parts of a model folder, frozen and in evaluation mode; a part that the folder lacks is None."""

    config: VoiceStyleConfig
    encoder: VoiceFaceEncoder
    generator: Generator | None
    bank: PrototypeBank | None
    encoder_fingerprint: str
    generator_fingerprint: str | None
    metadata: dict[str, Any]  # provenance: what `save_model` was given
    folder: Path
    identity: IRSE50 | None = None
    identity_fingerprint: str | None = None
    inverter: Inverter | None = None
    inverter_fingerprint: str | None = None
    mapper: Mapper | None = None
    dtype: torch.dtype = torch.float16  # what the weights are stored in; `save_model` takes it

    def needed(self, part: Part | None, name: str, remedy: str) -> Part:
        """A part that may be absent; a ValueError with the remedy where it is."""
        if part is None:
            raise ValueError(f"{self.folder}: this model has no {name}; {remedy}, or use another model")
        return part

    @property
    def needed_generator(self) -> Generator:
        """The generator; a ValueError where there is none."""
        return self.needed(self.generator, "generator", "add generator.safetensors to its folder")

    @property
    def needed_inverter(self) -> Inverter:
        """The inverter; a ValueError where there is none."""
        return self.needed(self.inverter, "inverter", "`voicestyle train inverter` adds one")

    def summary(self) -> dict[str, Any]:
        """What the model is and where it comes from, as plain JSON-ready values."""
        networks = {
            "encoder": self.encoder,
            "generator": self.generator,
            "identity": self.identity,
            "inverter": self.inverter,
            "mapper": self.mapper,
        }
        counts = {n: sum(p.numel() for p in m.parameters()) for n, m in networks.items() if m is not None}
        return {
            "name": self.config.name,
            "license": self.config.license,
            "folder": str(self.folder),
            "num_parameters": counts,
            "num_prototypes": 0 if self.bank is None else len(self.bank.centroids),
            "num_members": 0 if self.bank is None else len(self.bank.member_keys),
            "encoder_fingerprint": self.encoder_fingerprint,
            "generator_fingerprint": self.generator_fingerprint,
            "identity_fingerprint": self.identity_fingerprint,
            "inverter_fingerprint": self.inverter_fingerprint,
            "stored_as": str(self.dtype).removeprefix("torch."),
            "config": to_dict(self.config),
            **self.metadata,
        }


def save_model(
    folder: str | Path,
    config: VoiceStyleConfig,
    encoder: nn.Module,
    generator: nn.Module | None = None,
    bank: PrototypeBank | None = None,
    metadata: Mapping[str, Any] | None = None,  # JSON-ready provenance: sources with their sha256, licence, ...
    card: str | None = None,  # text of README.md
    *,
    identity: IRSE50 | None = None,
    inverter: Inverter | None = None,  # of this generator; its config is that of `config`
    mapper: Mapper | None = None,  # of this encoder and generator; its config is that of `config`
    dtype: torch.dtype = torch.float16,  # what matrices and kernels are stored in
) -> Path:
    """The folder, written whole: made beside and renamed, so that a reader never sees half a model.

    An existing model folder is replaced; anything else that is in the way is left alone.

    Raises:
        ValueError: the folder holds other files, or the bank does not belong to the networks.
    """
    folder = Path(folder)
    check_replaceable(folder)
    given = {ENCODER: encoder, GENERATOR: generator, IDENTITY: identity, INVERTER: inverter, MAPPER: mapper}
    networks = {name: network for name, network in given.items() if network is not None}
    fingerprints = {name: fingerprint(network) for name, network in networks.items()}
    if inverter is not None and (generator is None or inverter.config != config.inverter):
        raise ValueError(f"inverter of {inverter.config}: expected a generator, and the same in the config")
    if bank is not None:
        bank.check(fingerprints[ENCODER], fingerprints.get(GENERATOR))
    with folder_written_whole(folder) as beside:
        (beside / CONFIG).write_text(json.dumps(to_dict(config), indent=2) + "\n", encoding="utf-8")
        (beside / CARD).write_text(card or _card(config), encoding="utf-8")
        for name, network in networks.items():
            header = {
                **(metadata or {}),
                "format_version": FORMAT_VERSION,
                "part": name,
                "license": config.license,
                "fingerprint": fingerprints[name],
            }
            if name == INVERTER:
                header["inverts"] = fingerprints.get(GENERATOR)
            if name == MAPPER:
                header["maps"] = f"{fingerprints[ENCODER]} {fingerprints.get(GENERATOR)}"
            state = stored(network.state_dict(), dtype)
            save_file(state, beside / name, {"voicestyle": json.dumps(header, sort_keys=True)})
        if bank is not None:
            bank.save(beside / PROTOTYPES)
    return folder


def save_changed(model: Model, folder: str | Path, **changed: Any) -> Path:
    """The folder of a model with some of its fields changed; its card and the type of its weights stay.

    Raises:
        ValueError: as `save_model`
    """
    card = model.folder / CARD
    new = dataclasses.replace(model, **changed)
    return save_model(
        folder,
        new.config,
        new.encoder,
        new.generator,
        new.bank,
        new.metadata,
        card.read_text(encoding="utf-8") if card.is_file() else None,
        identity=new.identity,
        inverter=new.inverter,
        mapper=new.mapper,
        dtype=new.dtype,
    )


def check_replaceable(folder: Path) -> None:
    """Raise ``ValueError`` where `save_model` would have to take a user's own files away."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file, expected a folder to write the model to; choose another name")
    if folder.is_dir():
        ours = {CONFIG, ENCODER, GENERATOR, IDENTITY, INVERTER, MAPPER, PROTOTYPES, CARD, SUGGESTION}
        other = sorted(path.name for path in folder.iterdir() if path.name not in ours)
        if other:
            raise ValueError(
                f"{folder}: holds files that are no part of a model ({', '.join(other[:5])}); choose another"
            )


def _card(config: VoiceStyleConfig) -> str:
    return f"# {config.name}\n\nA voicestyle model. License: {config.license}. Generated faces identify nobody.\n"


def load_model(name_or_folder: str | Path = EMBEDDED, device: str | torch.device = "cpu") -> Model:
    """The model of that name, or in that folder: networks frozen, in float32, on `device`.

    Raises:
        FileNotFoundError: no such model, or a part that no model can be without is missing
        ValueError: a part is truncated, foreign, of another shape, or belongs to another model
    """
    folder = _folder(name_or_folder)
    config = _read_config(folder)
    encoder, header, dtype = _load_part(folder / ENCODER, partial(VoiceFaceEncoder, config.encoder), device)
    generator, identity, inverter, mapper, bank = None, None, None, None, None
    prints: dict[str, str] = {}
    if config.generator is not None and _is_there(folder / GENERATOR):
        generator, its_header, _ = _load_part(folder / GENERATOR, partial(Generator, config.generator), device)
        prints[GENERATOR] = its_header["fingerprint"]
    if _is_there(folder / IDENTITY):
        identity, its_header, _ = _load_part(folder / IDENTITY, IRSE50, device, math.inf)
        prints[IDENTITY] = its_header["fingerprint"]
    if generator is not None and config.inverter is not None and _is_there(folder / INVERTER):
        inverter, its_header, _ = _load_part(folder / INVERTER, partial(Inverter, config.inverter), device)
        prints[INVERTER] = its_header["fingerprint"]
        _check_inverts(folder / INVERTER, its_header, prints[GENERATOR])
    if generator is not None and config.mapper is not None and _is_there(folder / MAPPER):
        mapper, its_header, _ = _load_part(folder / MAPPER, partial(Mapper, config.mapper), device)
        _check_maps(folder / MAPPER, its_header, f"{header['fingerprint']} {prints[GENERATOR]}")
    if _is_there(folder / PROTOTYPES):
        bank = PrototypeBank.load(folder / PROTOTYPES)
        bank.check(header["fingerprint"], prints.get(GENERATOR), str(folder / PROTOTYPES))
    metadata = {name: value for name, value in header.items() if name not in HEADER}
    return Model(
        config,
        encoder,
        generator,
        bank,
        header["fingerprint"],
        prints.get(GENERATOR),
        metadata,
        folder,
        identity,
        prints.get(IDENTITY),
        inverter,
        prints.get(INVERTER),
        mapper,
        dtype,
    )


def _check_inverts(path: Path, header: Mapping[str, Any], generator: str) -> None:
    """Raise ``ValueError`` where an inverter was trained for another generator."""
    if (its := str(header.get("inverts"))) != generator:
        raise ValueError(
            f"{path}: inverts generator {its[:12]}, but the model's is {generator[:12]}; train it again with "
            "`voicestyle train inverter`, or take the file away"
        )


def _check_maps(path: Path, header: Mapping[str, Any], networks: str) -> None:
    """Raise ``ValueError`` where a mapper learnt from another encoder or generator."""
    if str(header.get("maps")) != networks:
        raise ValueError(
            f"{path}: learnt from another encoder or generator than the model's; make it again with "
            "`voicestyle models distill`, or take the file away"
        )


def _folder(name_or_folder: str | Path) -> Path:
    """Where the model lies."""
    name = str(name_or_folder)
    if name in embedded_models():
        return MODELS / name
    folder = Path(name_or_folder)
    if (folder / CONFIG).is_file():
        return folder
    if name.startswith(hub.SCHEME):
        return hub.fetch(name)
    known = f"expected a folder with {CONFIG} and {ENCODER}, hf://ORG/NAME, or one of the names {embedded_models()}"
    if "://" in name:
        raise ValueError(f"{name}: such addresses are not supported; download the folder first; {known}")
    if folder.is_dir():
        held = sorted(path.name for path in folder.iterdir())[:8]
        raise FileNotFoundError(f"{folder}: no {CONFIG} in this folder (it holds {held or 'nothing'}); {known}")
    raise FileNotFoundError(f"{name}: no such model; {known}")


def _read_config(folder: Path) -> VoiceStyleConfig:
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file, or one that is nested too deep ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: got a {type(values).__name__}, expected an object with the model's settings")
    version = values.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise ValueError(f"{path}: format version {version}, expected {FORMAT_VERSION}; update voicestyle or the model")
    return read(VoiceStyleConfig, values, SettingsFile(str(path)))


def _load_part(
    path: Path, make: Callable[[], nn.Module], device: str | torch.device, limit: float | None = None
) -> tuple[Any, dict[str, Any], torch.dtype]:
    """A network with the weights of one file, the file's header, and what its matrices are stored in."""
    state, header = _read_part(path)
    is_half = any(value.dtype == torch.float16 for value in state.values())
    state = restored(state)
    try:
        with Unfilled(limit or 2 * sum(value.numel() for value in state.values()) + 1_000_000):
            module = make()
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path.parent / CONFIG}: describes no network for {path.name}: {error}") from None
    _check_shapes(path, _shapes(state), _shapes(module.state_dict()))
    module.load_state_dict(state, assign=True)
    _check_weights(path, module, header["fingerprint"])
    return module.eval().requires_grad_(False).to(device), header, torch.float16 if is_half else torch.float32


def _is_there(path: Path) -> bool:
    """Whether a model has a part that it may lack; a link that leads nowhere is no lack."""
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(f"{path}: a link that leads nowhere ({os.readlink(path)}); mend it, or take it away")
    return path.exists()


def _check_weights(path: Path, module: nn.Module, expected: Any) -> None:
    """Raise ``ValueError`` for weights that are not finite, or other than those that were written."""
    for name, value in module.state_dict().items():
        if value.is_floating_point() and not is_finite(value):
            raise ValueError(f"{path}: {name} holds NaN or infinite values; train or convert the model again")
    if (got := fingerprint(module)) != expected:
        raise ValueError(
            f"{path}: other weights than its header says (fingerprint {got[:12]}, expected {str(expected)[:12]}): "
            "damaged or changed; get the file again"
        )


class Unfilled(TorchFunctionMode):
    """Networks built under it hold arbitrary values: none are drawn, as loading replaces them all.

    A config that asks for more than `limit` elements in all is refused before they are allocated.
    """

    def __init__(self, limit: float = math.inf) -> None:
        super().__init__()
        self.left = limit

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in (Tensor.normal_, Tensor.uniform_) or getattr(function, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if function in (torch.randn, torch.empty, torch.zeros, torch.ones, torch.full):
            self.left -= math.prod(args[0] if isinstance(args[0], (tuple, list)) else args)
            if self.left < 0:
                raise ValueError("it is much larger than the weights that are stored for it")
            function = torch.empty if function is torch.randn else function
        return function(*args, **kwargs)


def _read_part(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        held = sorted(p.name for p in path.parent.iterdir())
        raise FileNotFoundError(
            f"{path}: missing from the model folder, which holds {held}; get the whole folder again"
        )
    state, header = read_tensors(path)
    if not isinstance(header, dict) or header.get("part") != path.name or not is_fingerprint(header.get("fingerprint")):
        raise ValueError(
            f"{path}: not a voicestyle {path.stem} (its header does not say so); convert foreign weights first"
        )
    return state, header


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def _check_shapes(path: Path, got: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> None:
    missing, unknown = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
    if missing or unknown:
        raise ValueError(
            f"{path}: does not fit {CONFIG}: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}"
        )
    for name, shape in expected.items():
        if got[name] != shape:
            raise ValueError(f"{path}: {name} has shape {got[name]}, {CONFIG} expects {shape}")
