"""Latents that nothing determines, against plain sums and the properties that faces of one voice need."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import voicestyle
from tiny import VOICE, save_tiny, tiny_generator
from voicestyle.cli import main
from voicestyle.image import to_pil
from voicestyle.sampling import further_start, mean_latents, polyline, random_latents, undetermined
from voicestyle.show import save_morph


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_random_face_does_not_depend_on_how_many_are_asked_for() -> None:
    generator = tiny_generator()
    assert torch.allclose(random_latents(generator, 3), random_latents(generator, 17)[:3], atol=1e-4)
    assert not torch.allclose(random_latents(generator, 3, seed=1), random_latents(generator, 3), atol=0.1)


def test_truncation_moves_faces_to_the_mean() -> None:
    generator = tiny_generator()
    whole, half, none = (random_latents(generator, 4, truncation_psi=psi) for psi in (1.0, 0.5, 0.0))
    assert torch.allclose(half, (whole + generator.w_avg) / 2, atol=1e-5)
    assert torch.allclose(none, generator.w_avg.expand(4, -1), atol=1e-4)


def test_means_of_several_latents_lie_nearer_to_the_mean() -> None:
    generator = tiny_generator()
    spread = {
        m: (mean_latents(generator, 400, m, torch.Generator().manual_seed(0)) - generator.w_avg).square().sum(1).mean()
        for m in (1, 8)
    }
    assert spread[1].sqrt() == pytest.approx(generator.w_std.item(), rel=0.15)
    harmonic = sum(1 / n for n in range(1, 9)) / 8  # a mean of n has a variance of one n-th
    assert spread[8] / spread[1] == pytest.approx(harmonic, rel=0.2)


def test_what_is_undetermined_is_uncorrelated_with_the_embeddings() -> None:
    emb = normal(60, 5)
    w = emb @ normal(5, 8, seed=1) + 0.3 * normal(60, 8, seed=2)
    left = undetermined(w, emb)
    assert left.dtype == w.dtype and left.mean(0).abs().max() < 1e-4
    assert ((emb - emb.mean(0)).T @ left).abs().max() < 1e-3
    x = np.hstack([emb.numpy(), np.ones((60, 1))])
    expected = w.numpy() - x @ np.linalg.lstsq(x, w.numpy(), rcond=None)[0]
    assert np.allclose(left.numpy(), expected, atol=1e-4)


def test_no_solver_is_asked_for_that_gpus_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA refuses every driver of `lstsq` but "gels", which in turn needs full rank."""
    lstsq = torch.linalg.lstsq

    def as_on_cuda(a: torch.Tensor, b: torch.Tensor, *, driver: str | None = None):
        if driver not in (None, "gels"):
            raise RuntimeError("torch.linalg.lstsq: `driver` other than `gels` is not supported on CUDA")
        return lstsq(a, b, driver="gels")

    monkeypatch.setattr(torch.linalg, "lstsq", as_on_cuda)
    rng = torch.Generator().manual_seed(0)
    emb = torch.randn(40, 3, generator=rng)
    emb[:, 2] = emb[:, 0]  # not of full rank
    w = torch.cat([emb, torch.randn(40, 2, generator=rng)], 1)
    left = undetermined(w, emb)
    assert torch.isfinite(left).all() and left[:, :3].abs().max() < 1e-5 and left[:, 3:].abs().max() > 0.5


def test_fewer_members_than_coordinates_leave_nothing_undetermined() -> None:
    assert undetermined(normal(3, 8), normal(3, 32)).abs().max() < 1e-4


# --------------------------------------------------------------------------------------------- starts of further faces


def start(face: int, diversity: float = 1.0, fit=lambda w: -w.norm(dim=1), num_candidates: int = 8) -> torch.Tensor:
    rng = np.random.default_rng([0, face])
    return further_start(torch.full((6,), 2.0), normal(40, 6), fit, rng, diversity, num_candidates)


def test_the_same_seed_gives_the_same_start_and_diversity_scales_it() -> None:
    assert torch.equal(start(1), start(1)) and not torch.equal(start(1), start(2))
    alone = {"num_candidates": 1}
    way = start(1, 1.0, **alone) - 2
    assert torch.allclose(start(1, 0.5, **alone) - 2, way / 2, atol=1e-4)
    assert torch.equal(start(1, 0.0), torch.full((6,), 2.0))


@pytest.mark.parametrize(
    ("similarities", "taken"),
    [
        ([0.7, 0.1, 0.56, 0.9], 1),  # the first that fits, not the best
        ([0.7, 0.6, 0.9, 0.9], 0),
        ([0.7, 0.1, 0.3, 0.2], 1),  # none fits
    ],
)
def test_of_several_candidates_the_first_that_fits_is_taken(similarities: list[float], taken: int) -> None:
    seen = []

    def fit(w: torch.Tensor) -> torch.Tensor:
        seen.append(w)
        return torch.tensor(similarities)

    found = start(1, fit=fit, num_candidates=3)
    assert len(seen[0]) == 4 and torch.equal(seen[0][0], torch.full((6,), 2.0))
    assert torch.equal(found, seen[0][1 + taken])


def test_deviations_have_the_covariance_of_what_is_undetermined() -> None:
    deviations = normal(40, 6) @ torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5, 0.2, 0.0]))
    deviations = deviations - deviations.mean(0)
    drawn = torch.stack([
        further_start(torch.zeros(6), deviations, lambda w: w[:, 0], np.random.default_rng([1, face]), 1.0, 1)
        for face in range(4000)
    ])  # fmt: skip
    expected = deviations.T @ deviations / 40
    assert torch.allclose(drawn.T @ drawn / 4000, expected, atol=0.08 * expected.max().item())


# ------------------------------------------------------------------------------------------------------------ the way


@given(st.integers(2, 6), st.integers(0, 10_000))
def test_equal_parts_of_a_way_are_equally_long(num_points: int, seed: int) -> None:
    points = normal(num_points, 4, seed=seed)
    fine = polyline(points, torch.linspace(0, 1, 2001))
    assert torch.allclose(fine[[0, -1]], points[[0, -1]], atol=1e-4)
    steps = (fine[1:] - fine[:-1]).norm(dim=1)
    length = (points[1:] - points[:-1]).norm(dim=1).sum()
    assert steps.sum() == pytest.approx(length.item(), rel=1e-2)  # corners are cut a little
    assert steps.max() <= length / 2000 * 1.01 + 1e-4


def test_a_way_that_leads_nowhere_stays_where_it_is() -> None:
    point = normal(1, 4)
    assert torch.equal(polyline(point.expand(3, -1), torch.linspace(0, 1, 5)), point.expand(5, -1))


# --------------------------------------------------------------------------------------------- what is written of them


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


def run(*arguments: object) -> list[dict]:
    result = CliRunner().invoke(main, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_random_faces_are_written_one_by_one_or_on_a_sheet(folder: Path, tmp_path: Path) -> None:
    common = ("--model", folder, "--num", 5, "--seed", 3, "--truncation-psi", 0.5)
    (record,) = run("sample", "-o", tmp_path / "faces", *common)
    assert record["pictures"] == [str(tmp_path / "faces" / f"{i:05d}.png") for i in range(1, 6)]
    expected = to_pil(voicestyle.load(folder, device="cpu").sample(5, 3, 0.5))
    for path, picture in zip(record["pictures"], expected, strict=True):
        with Image.open(path) as held:
            assert {"AI-generated", "seed", "truncation_psi"} <= set(held.text)
            assert np.abs(np.asarray(held, int) - np.asarray(picture, int)).max() <= 1
    (record,) = run("sample", "-o", tmp_path / "sheet.png", *common)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert record["pictures"] == [str(tmp_path / "sheet.png")] and "AI-generated" in sheet.text


def test_other_formats_of_random_faces_are_wrong_usage(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["sample", "-o", str(tmp_path / "faces.jpg")])
    assert result.exit_code == 2 and "pictures are written as PNG" in result.output


@pytest.fixture(scope="module")
def generation(folder: Path) -> voicestyle.Generation:
    return voicestyle.load(folder, device="cpu").generate(VOICE, num_faces=2)


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """The mean distance of pictures (H,W,3) at a quarter of their size: a video codec stores colors coarsely."""
    small = [x.reshape(x.shape[0] // 4, 4, x.shape[1] // 4, 4, 3).mean((1, 3)) for x in (a, b)]
    return np.abs(small[0] - small[1]).mean()


def test_a_morph_leads_from_the_prototype_to_the_face_and_back(folder: Path, generation, tmp_path: Path) -> None:
    vs = voicestyle.load(folder, device="cpu")
    paths = save_morph(vs, generation, tmp_path / "way.mp4", seconds=0.5)
    assert [path.name for path in paths] == ["way-1.mp4", "way-2.mp4"]
    nearest = vs.bank.member_w[vs.bank.assignments == generation.prototypes.prototypes[0]].mean(0, keepdim=True)
    for face, path in enumerate(paths):
        with av.open(str(path)) as file:
            frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in file.decode(video=0)]
            assert file.metadata["comment"].startswith("AI-generated: ") and f"face: {face}" in file.metadata["comment"]
        assert len(frames) == 12
        for place, image in ((0, vs.synthesize(nearest)), (6, generation.image[face : face + 1])):
            assert apart(frames[place], np.asarray(to_pil(image)[0], int)) < 8
        assert apart(frames[1], frames[-1]) < 8  # the way back


def test_a_morph_of_unguided_faces_stays_at_the_start(folder: Path, tmp_path: Path) -> None:
    vs = voicestyle.load(folder, device="cpu")
    (path,) = save_morph(vs, vs.generate(VOICE, steps=0), tmp_path / "way.gif", seconds=0.5)
    with Image.open(path) as gif:
        assert b"AI-generated" in gif.info["comment"] and gif.n_frames > 3


def test_the_command_writes_morphs_and_passes_its_settings_on(folder: Path, tmp_path: Path) -> None:
    options = ("--model", folder, "--num-faces", 2, "--steps", 1, "--diversity", 0, "--truncation-psi", 0)
    (record,) = run("generate", VOICE, "-o", tmp_path / "face.png", "--morph", *options)
    assert record["morphs"] == [str(tmp_path / f"face-morph-{face}.gif") for face in (1, 2)]
    assert all(Path(path).stat().st_size for path in record["morphs"]) and record["settings"] == "custom"
    assert record["similarity"][0] == pytest.approx(record["similarity"][1], abs=1e-4)  # both began at the mean face
