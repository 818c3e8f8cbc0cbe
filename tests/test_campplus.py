"""CAM++ with folded batch norms against a plain formulation on 3D-Speaker's tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fill import inp
from voicestyle.convert.campplus import from_3d_speaker, translate
from voicestyle.nn.campplus import CAMPlusPlus

State = dict[str, Tensor]


def add_norm(state: State, name: str, channels: int, affine: bool = True) -> None:
    state[f"{name}.running_mean"] = 0.1 * inp(f"{name}.m", (channels,)).double()
    state[f"{name}.running_var"] = 0.5 + inp(f"{name}.v", (channels,)).double().abs()
    state[f"{name}.num_batches_tracked"] = torch.tensor(1)
    if affine:
        state[f"{name}.weight"] = 1 + 0.1 * inp(f"{name}.w", (channels,)).double()
        state[f"{name}.bias"] = 0.1 * inp(f"{name}.b", (channels,)).double()


def add_weight(state: State, name: str, *shape: int) -> None:
    fan_in = torch.tensor(shape[1:]).prod().item()
    state[name] = inp(name, shape, lo=-1).double() * (3 / fan_in) ** 0.5


@pytest.fixture(scope="module")
def foreign() -> State:
    """A state dict as 3D-Speaker saves one."""
    state: State = {}
    add_weight(state, "head.conv1.weight", 32, 1, 3, 3)
    add_norm(state, "head.bn1", 32)
    for layer in (1, 2):
        for block in (0, 1):
            name = f"head.layer{layer}.{block}"
            for i in (1, 2):
                add_weight(state, f"{name}.conv{i}.weight", 32, 32, 3, 3)
                add_norm(state, f"{name}.bn{i}", 32)
            if not block:
                add_weight(state, f"{name}.shortcut.0.weight", 32, 32, 1, 1)
                add_norm(state, f"{name}.shortcut.1", 32)
    add_weight(state, "head.conv2.weight", 32, 32, 3, 3)
    add_norm(state, "head.bn2", 32)
    add_weight(state, "xvector.tdnn.linear.weight", 128, 320, 5)
    add_norm(state, "xvector.tdnn.nonlinear.batchnorm", 128)
    channels = 128
    for number, count in enumerate((12, 24, 16), start=1):
        for i in range(1, count + 1):
            name = f"xvector.block{number}.tdnnd{i}"
            add_norm(state, f"{name}.nonlinear1.batchnorm", channels)
            add_weight(state, f"{name}.linear1.weight", 128, channels, 1)
            add_norm(state, f"{name}.nonlinear2.batchnorm", 128)
            add_weight(state, f"{name}.cam_layer.linear_local.weight", 32, 128, 3)
            for j, (outs, ins) in enumerate(((64, 128), (32, 64)), start=1):
                add_weight(state, f"{name}.cam_layer.linear{j}.weight", outs, ins, 1)
                state[f"{name}.cam_layer.linear{j}.bias"] = 0.1 * inp(f"{name}.c{j}", (outs,)).double()
            channels += 32
        add_norm(state, f"xvector.transit{number}.nonlinear.batchnorm", channels)
        add_weight(state, f"xvector.transit{number}.linear.weight", channels // 2, channels, 1)
        channels //= 2
    add_norm(state, "xvector.out_nonlinear.batchnorm", channels)
    add_weight(state, "xvector.dense.linear.weight", 192, 2 * channels, 1)
    add_norm(state, "xvector.dense.nonlinear.batchnorm", 192, affine=False)
    return state


def naive(state: State, fbank: Tensor) -> Tensor:
    """The embedding (N, 192) of log mel energies (N, 80, T) whose mean is removed: the paper's figures in sequence."""

    def norm(x: Tensor, name: str) -> Tensor:
        parts = [state.get(f"{name}.{part}") for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *parts, training=False)

    def conv(x: Tensor, name: str, **how: object) -> Tensor:
        bias = state.get(f"{name}.bias")
        return (F.conv1d if x.ndim == 3 else F.conv2d)(x, state[f"{name}.weight"], bias, **how)

    x = norm(conv(fbank[:, None], "head.conv1", padding=1), "head.bn1").relu()
    for layer in (1, 2):
        for block, stride in ((0, (2, 1)), (1, (1, 1))):
            name = f"head.layer{layer}.{block}"
            y = norm(conv(x, f"{name}.conv1", stride=stride, padding=1), f"{name}.bn1").relu()
            y = norm(conv(y, f"{name}.conv2", padding=1), f"{name}.bn2")
            skip = x if block else norm(conv(x, f"{name}.shortcut.0", stride=stride), f"{name}.shortcut.1")
            x = (y + skip).relu()
    x = norm(conv(x, "head.conv2", stride=(2, 1), padding=1), "head.bn2").relu().flatten(1, 2)
    x = norm(conv(x, "xvector.tdnn.linear", stride=2, padding=2), "xvector.tdnn.nonlinear.batchnorm").relu()
    for number, (count, dilation) in enumerate(((12, 1), (24, 2), (16, 2)), start=1):
        for i in range(1, count + 1):
            name = f"xvector.block{number}.tdnnd{i}"
            h = conv(norm(x, f"{name}.nonlinear1.batchnorm").relu(), f"{name}.linear1")
            h = norm(h, f"{name}.nonlinear2.batchnorm").relu()
            local = conv(h, f"{name}.cam_layer.linear_local", padding=dilation, dilation=dilation)
            masked = torch.empty_like(local)
            for start in range(0, h.shape[2], 100):
                part = slice(start, start + 100)
                context = h.mean(2, keepdim=True) + h[:, :, part].mean(2, keepdim=True)
                context = conv(context, f"{name}.cam_layer.linear1").relu()
                masked[:, :, part] = local[:, :, part] * conv(context, f"{name}.cam_layer.linear2").sigmoid()
            x = torch.cat([x, masked], 1)
        x = norm(x, f"xvector.transit{number}.nonlinear.batchnorm").relu()
        x = conv(x, f"xvector.transit{number}.linear")
    x = norm(x, "xvector.out_nonlinear.batchnorm").relu()
    pooled = torch.cat([x.mean(2), x.var(2).sqrt()], 1)[..., None]
    return norm(conv(pooled, "xvector.dense.linear"), "xvector.dense.nonlinear.batchnorm")[..., 0]


def test_folded_network_is_the_papers(foreign: State) -> None:
    network = CAMPlusPlus().double().eval()
    network.load_state_dict({name: value.double() for name, value in translate(foreign).items()})
    exact = {name: value.float().double() if "num" not in name else value for name, value in foreign.items()}
    fbank = inp("energies", (2, 1, 80, 250), lo=-5).double()  # 125 frames after the stem: two segments
    expected = naive(exact, fbank[:, 0] - fbank[:, 0].mean(2, keepdim=True))
    assert expected.std() > 0.01
    with torch.no_grad():
        got = network(fbank)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)  # folded weights are float32
        torch.testing.assert_close(network(fbank + 3), got)  # a constant gain plays no part


def test_foreign_files_are_refused(foreign: State, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        from_3d_speaker(tmp_path / "none.pt")
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list\.pt: a list, expected the state dict of 3D-Speaker's CAM\+\+"):
        from_3d_speaker(tmp_path / "list.pt")
    without = {name: value for name, value in foreign.items() if name != "head.bn2.running_var"}
    with pytest.raises(ValueError, match=r"not 3D-Speaker's CAM\+\+ \('head.bn2.running_var'\)"):
        translate(without)
    with pytest.raises(ValueError, match="1 keys unknown, e.g. .'extra'"):
        translate({**foreign, "extra": torch.zeros(1)})
    with pytest.raises(ValueError, match="of another shape"):
        translate({**foreign, "xvector.block1.tdnnd1.cam_layer.linear1.weight": torch.zeros(64, 127, 1)})
