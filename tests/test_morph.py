"""Morphs: splines against what they must do to simple shapes, and properties of the space."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from voicestyle.train.generator.morph import MIRRORED, MorphSpace, outline, spline_grid


def plain_grid(size: int) -> torch.Tensor:
    return F.affine_grid(torch.eye(2, 3)[None], [1, 1, size, size], align_corners=False)


def points(num: int = 12) -> torch.Tensor:
    return torch.rand(1, num, 2, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8


def test_spline_of_a_shape_onto_itself_moves_nothing() -> None:
    assert torch.allclose(spline_grid(points(), points(), 32), plain_grid(32), atol=2e-3)


def test_spline_reproduces_an_affine_map() -> None:
    matrix, shift = torch.tensor([[1.1, 0.1], [-0.05, 0.9]]), torch.tensor([0.1, -0.2])
    grid = spline_grid(points(), points() @ matrix + shift, 32, smoothing=0.0)
    # PyTorch's bicubic kernel bends a line a little, and towards the rim the way is continued as it ends
    assert torch.allclose(grid[:, 8:-8, 8:-8], (plain_grid(32) @ matrix + shift)[:, 8:-8, 8:-8], atol=4e-3)


def test_mirror_order_is_its_own_inverse() -> None:
    assert sorted(MIRRORED) == list(range(68))
    assert [MIRRORED[i] for i in MIRRORED] == list(range(68))


def test_outline_finds_the_rim_of_a_disc() -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    picture = torch.where(x.square() + y.square() < 0.6**2, -0.5, 1.0).expand(1, 3, -1, -1)
    radius = outline(picture, torch.zeros(1, 2)).norm(dim=-1)
    assert torch.allclose(radius, torch.full_like(radius, 0.6), atol=0.06)


def test_a_face_mixed_with_itself_is_that_face(face_set) -> None:
    pictures, landmarks = face_set
    space = MorphSpace.build(pictures, landmarks)
    assert len(space) == 2 * len(pictures)
    index = torch.tensor([[0, 0], [3, 3]])
    morph = space.mix(index, torch.tensor([[0.3, 0.7], [0.5, 0.5]]))
    # two bilinear warps blur the edges a little
    assert (morph - pictures[[0, 3]]).square().mean().sqrt() < 0.12
    assert torch.allclose(morph, space.mix(index, torch.tensor([[1.0, 0.0], [0.0, 1.0]])), atol=1e-3)


def test_a_morph_lies_between_its_faces(face_set) -> None:
    """The head of a morph is as wide as the mean of its heads, where a mean of pixels has two outlines."""
    pictures, landmarks = face_set
    space = MorphSpace.build(pictures, landmarks)
    widths = (pictures[:, 0, 32] < 0.5).sum(1).float()
    low, high = int(widths.argmin()), int(widths.argmax())
    morph = space.mix(torch.tensor([[low, high]]), torch.tensor([[0.5, 0.5]]))
    assert abs((morph[0, 0, 32] < 0.5).sum() - (widths[low] + widths[high]) / 2) <= 2


def test_codes_are_white(face_set) -> None:
    space = MorphSpace.build(*face_set)
    codes, deviations = space.codes(8)
    assert torch.allclose(codes.T @ codes / len(space), torch.eye(8), atol=1e-4)
    assert torch.all(deviations[:-1] >= deviations[1:])
    assert deviations.square().mean() == pytest.approx(1)
    with pytest.raises(ValueError, match="100 components asked of 24 pictures"):
        space.codes(100)


def test_detail_gives_morphs_the_roughness_of_their_faces(face_set) -> None:
    """Textures of unlike noise: a plain mean of four has half its strength, and `detail` brings it back."""
    pictures, landmarks = face_set
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0)) * 0.2
    space = MorphSpace.build((pictures * 0.3 + noise).clamp(-1, 1), landmarks)
    index, weights = torch.tensor([[0, 2, 4, 6]]), torch.full((1, 4), 0.25)

    def roughness(image: torch.Tensor) -> float:
        middle = image[..., 24:40, 24:40]
        return (middle - F.avg_pool2d(middle, 3, 1, 1)).std().item()

    one, plain, half, full = (
        roughness(space.mix(i, w, detail))
        for i, w, detail in (
            (torch.tensor([[0, 0]]), torch.tensor([[0.5, 0.5]]), 0.0),
            (index, weights, 0.0), (index, weights, 0.5), (index, weights, 1.0),
        )
    )  # fmt: skip
    assert plain < half < full
    assert full == pytest.approx(one, rel=0.35)
    single = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    assert torch.allclose(space.mix(index, single, 1.0), space.mix(index, single, 0.0), atol=1e-3)
