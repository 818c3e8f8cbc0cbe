"""The prototype bank: nearest against a naive search, round trip, and files that are no bank."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from voicestyle.prototypes import PrototypeBank


def make_bank(num_members: int = 60, k: int = 6, people: int = 20, seed: int = 0) -> PrototypeBank:
    rng = torch.Generator().manual_seed(seed)
    emb = F.normalize(torch.randn(num_members, 8, generator=rng), dim=1)
    identities = [f"person {i % people}" for i in range(num_members)]
    w = torch.randn(num_members, 4, generator=rng)
    return PrototypeBank.build(emb, w, identities, k, encoder_fingerprint="e" * 64, generator_fingerprint="f" * 64)


@pytest.fixture(scope="module")
def bank() -> PrototypeBank:
    return make_bank()


def query(seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(1, 8, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_build_keeps_members_in_order_and_hides_their_names(bank: PrototypeBank) -> None:
    assert bank.member_keys[:2] == ["m00000", "m00001"]
    assert bank.member_identity.tolist() == [i % 20 for i in range(60)]
    assert torch.allclose(bank.centroids.norm(dim=1), torch.ones(6), atol=1e-5)
    assert set(bank.assignments.tolist()) == set(range(6))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 6), num_members=st.integers(1, 30))
def test_nearest_equals_a_naive_search(seed: int, k: int, num_members: int) -> None:
    bank, voice = make_bank(), query(seed)
    found = bank.nearest(voice, k, num_members)
    similarity = (bank.centroids @ voice[0]).tolist()
    prototypes = sorted(range(6), key=lambda i: -similarity[i])[:k]
    assert found.prototypes.tolist() == prototypes
    members, people = [], set()
    scores = (bank.member_emb @ voice[0]).tolist()
    for i in sorted(range(60), key=lambda i: -scores[i]):
        if bank.assignments[i].item() in prototypes and bank.member_identity[i].item() not in people:
            people.add(bank.member_identity[i].item())
            members.append(i)
    assert found.members.tolist() == members[:num_members]
    assert torch.allclose(found.member_similarities, bank.member_emb[found.members] @ voice[0], atol=1e-5)
    assert (found.similarities.diff() <= 0).all() and (found.member_similarities.diff() <= 0).all()


def test_more_members_begin_with_the_same_ones(bank: PrototypeBank) -> None:
    few, many = bank.nearest(query(1), 3, 4), bank.nearest(query(1), 3, 12)
    assert many.members[:4].tolist() == few.members.tolist()


def test_round_trip_is_bit_exact(bank: PrototypeBank, tmp_path) -> None:
    bank.save(tmp_path / "bank.safetensors")
    loaded = PrototypeBank.load(tmp_path / "bank.safetensors")
    for f in dataclasses.fields(bank):
        mine, other = getattr(bank, f.name), getattr(loaded, f.name)
        assert torch.equal(mine, other) if isinstance(mine, torch.Tensor) else mine == other
    assert [p.name for p in tmp_path.iterdir()] == ["bank.safetensors"]


def test_the_same_seed_writes_the_same_bytes(tmp_path) -> None:
    for name in "ab":
        make_bank().save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_another_encoder_or_generator_is_an_error_that_says_how_to_rebuild(bank: PrototypeBank) -> None:
    bank.check("e" * 64, "f" * 64)
    bank.check("e" * 64, None)
    with pytest.raises(ValueError, match=r"built with encoder eeeeeeeeeeee.*prototypes build"):
        bank.check("x" * 64, "f" * 64)
    with pytest.raises(ValueError, match="built with generator"):
        bank.check("e" * 64, "x" * 64)


@pytest.mark.parametrize(
    ("k", "num_members", "shape", "message"),
    [(0, 1, (1, 8), "k: got 0, expected 1 to 6"), (7, 1, (1, 8), "k: got 7"), (1, 0, (1, 8), "num_members"),
     (1, 1, (2, 8), "voice embedding"), (1, 1, (1, 9), "voice embedding")],
)  # fmt: skip
def test_unfit_queries_are_errors(bank: PrototypeBank, k: int, num_members: int, shape, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bank.nearest(torch.ones(shape), k, num_members)


def test_more_prototypes_than_faces_is_an_error() -> None:
    with pytest.raises(ValueError, match="choose fewer"):
        make_bank(num_members=3, k=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"member_w": torch.zeros(59, 4)}, "member_w has shape"), ({"centroids": torch.full((6, 8), torch.nan)}, "finite"),
     ({"assignments": torch.full((60,), 6)}, "reach outside"), ({"member_keys": ["m0"]}, "1 member keys"),
     ({"assignments": torch.zeros(60)}, "int64")],
)  # fmt: skip
def test_a_bank_that_does_not_hold_together_is_an_error(bank: PrototypeBank, change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(bank, **change)


def test_files_that_are_no_bank_are_errors(bank: PrototypeBank, tmp_path) -> None:
    path = tmp_path / "bank.safetensors"
    with pytest.raises(FileNotFoundError, match="prototypes build"):
        PrototypeBank.load(path)
    path.write_text("hello")
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        PrototypeBank.load(path)
    bank.save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        PrototypeBank.load(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="not a prototype bank"):
        PrototypeBank.load(path)


# ------------------------------------------------------------------------------------------------------ catalogues


@pytest.fixture(scope="module")
def catalogue(bank: PrototypeBank) -> PrototypeBank:
    """The bank before its members have pictures, as a converted official memory is."""
    keys = [f"person_{i % 20}/video{i}" for i in range(60)]
    return dataclasses.replace(bank, member_emb=None, member_w=None, generator_fingerprint="", member_keys=keys)


def test_a_catalogue_is_saved_and_loaded_and_belongs_to_no_generator(catalogue: PrototypeBank, tmp_path) -> None:
    catalogue.save(tmp_path / "bank.safetensors")
    loaded = PrototypeBank.load(tmp_path / "bank.safetensors")
    assert loaded.member_emb is None and loaded.member_w is None and loaded.generator_fingerprint == ""
    assert torch.equal(loaded.centroids, catalogue.centroids) and loaded.member_keys == catalogue.member_keys
    assert loaded.summary()["has_latents"] is False
    loaded.check("e" * 64, "any")
    with pytest.raises(ValueError, match="built with encoder"):
        loaded.check("x" * 64, None)


def test_a_catalogue_says_what_is_missing_to_those_who_need_latents(catalogue: PrototypeBank) -> None:
    for ask in (lambda: catalogue.latents, lambda: catalogue.nearest(query(1)),
                lambda: catalogue.nearest(query(1), member_order="dataset")):  # fmt: skip
        with pytest.raises(ValueError, match=r"this bank has no latents.*prototypes build --model FOLDER --faces"):
            ask()


@pytest.mark.parametrize("change", [{"member_w": None}, {"member_emb": None}, {"generator_fingerprint": ""}])
def test_half_a_catalogue_is_an_error(bank: PrototypeBank, change) -> None:
    with pytest.raises(ValueError, match="belong together"):
        dataclasses.replace(bank, **change)


def test_the_order_of_the_data_set_is_that_of_a_plain_loop(bank: PrototypeBank) -> None:
    found = bank.nearest(query(3), k=2, num_members=5, member_order="dataset")
    members = [i for i in range(60) if bank.assignments[i].item() in found.prototypes.tolist()]
    assert len(members) > 5 and found.members.tolist() == members[:5]
    assert torch.allclose(found.member_similarities, bank.member_emb[members[:5]] @ query(3)[0], atol=1e-5)
    everyone = bank.nearest(query(3), k=2, num_members=60, member_order="dataset")
    assert everyone.members.tolist() == members  # several of one identity, if they are there
    assert len(bank.member_identity[members].unique()) < len(members)


@pytest.mark.parametrize("which", ["bank", "catalogue"])
def test_a_subset_keeps_its_members_and_drops_empty_prototypes(which: str, request) -> None:
    whole: PrototypeBank = request.getfixturevalue(which)
    rows = torch.tensor([i for i in range(60) if whole.assignments[i] in (1, 4)][::2])
    part = whole.subset(rows)
    assert len(part.centroids) == 2 and part.member_keys == [whole.member_keys[i] for i in rows.tolist()]
    assert torch.equal(part.centroids[part.assignments], whole.centroids[whole.assignments[rows]])
    assert torch.equal(part.concentrations, whole.concentrations[[1, 4]])
    assert torch.equal(part.member_identity, whole.member_identity[rows])
    if whole.member_w is not None:
        assert torch.equal(part.member_w, whole.member_w[rows]) and torch.equal(part.member_emb, whole.member_emb[rows])
    with pytest.raises(ValueError, match="no members are left"):
        whole.subset(rows[:0])


def test_the_members_of_a_prototype_are_those_assigned_to_it(bank: PrototypeBank) -> None:
    for prototype in range(len(bank.centroids)):
        expected = (bank.assignments == prototype).nonzero().flatten()
        assert torch.equal(bank.members_of(prototype), expected)
