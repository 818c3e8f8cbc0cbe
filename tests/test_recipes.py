"""The one reader of settings: what does not fit is refused, with file, line and key; everything can be set."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voicestyle.build.assemble import ModelRecipe
from voicestyle.cli import main
from voicestyle.config import EncoderConfig, GuidanceConfig, VoiceStyleConfig
from voicestyle.schema import SettingsFile, hint_of, read, to_dict
from voicestyle.train.encoder.settings import EncoderRecipe
from voicestyle.train.generator.ada import COLORS, WARPS
from voicestyle.train.generator.settings import Change, GeneratorRecipe
from voicestyle.train.inverter import InverterRecipe
from voicestyle.train.recipe import dump_recipe, leaves, load_recipe, read_recipe, settings_of
from voicestyle.train.sharpen.settings import SharpenRecipe

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
KINDS = {"encoder": EncoderRecipe, "generator": GeneratorRecipe, "inverter": InverterRecipe, "model": ModelRecipe,
         "sharpen": SharpenRecipe}  # fmt: skip
TOYS = {**{part: f"toy_{part}.toml" for part in ("encoder", "generator", "inverter")}, "model": "embedded_model.toml"}


def kind_of(path: Path) -> str:
    """What a shipped recipe makes."""
    held = read_recipe(path)
    marks = {
        "objective": "encoder",
        "stages": "generator",
        "losses": "inverter",
        "guidance": "model",
        "data": "sharpen",
    }
    return next(kind for mark, kind in marks.items() if mark in held)


def put(table: dict[str, Any], key: str, value: Any, name: str | None = None) -> dict[str, Any]:
    """A copy with another value under a dotted key, or the same under another name; None takes it away."""
    table = copy.deepcopy(table)
    *sections, last = key.split(".")
    inner = table
    for section in sections:
        inner = inner[section]
    del inner[last]
    if value is not None:
        inner[name or last] = value
    return table


def has_least(hint: Any) -> bool:
    """Whether a type says how small a number may be."""
    return get_origin(hint) is Annotated or any(has_least(part) for part in get_args(hint))


def broken() -> Iterator[Any]:
    """Recipes with one mistake each, and the key that has to be named."""
    for kind, name in TOYS.items():
        recipe = dict(read_recipe(RECIPES / name))
        for key, value in leaves(recipe):
            if key.startswith("sources."):  # free names
                continue
            wrong = 7 if isinstance(value, str) else {"a": 1} if isinstance(value, bool) else "text"
            yield pytest.param(kind, put(recipe, key, wrong), key, id=f"{kind} {key} of another type")
            yield pytest.param(kind, put(recipe, key, value, f"{key.split('.')[-1]}x"), f"{key}x", id=f"{kind} {key}x")
            if isinstance(value, (int, float)) and has_least(hint_of(KINDS[kind], key)):
                yield pytest.param(kind, put(recipe, key, -1), key, id=f"{kind} {key} below")
            if is_required(kind, key):
                yield pytest.param(kind, put(recipe, key, None), key, id=f"{kind} {key} missing")


def is_required(kind: str, key: str) -> bool:
    section, _, name = key.rpartition(".")
    cls = hint_of(KINDS[kind], section) if section else KINDS[kind]
    cls = next((part for part in get_args(cls) if dataclasses.is_dataclass(part)), cls)
    (field,) = [field for field in dataclasses.fields(cls) if field.name == name]
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


BROKEN = list(broken())


def test_there_are_many_ways_to_break_a_recipe() -> None:
    assert len(BROKEN) > 250


@pytest.mark.parametrize(("kind", "recipe", "key"), BROKEN)
def test_every_mistake_is_told_with_file_line_and_key(
    tmp_path: Path, kind: str, recipe: dict[str, Any], key: str
) -> None:
    path = tmp_path / "mistaken.toml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    with pytest.raises(ValueError) as raised:
        load_recipe(path, KINDS[kind])
    lines = path.read_text(encoding="utf-8").splitlines()
    section, _, name = key.rpartition(".")
    places = [
        number
        for number, line in enumerate(lines, 1)
        if line.startswith((f"{name} = ", f"[{key}]")) or line == f"[{section}]"
    ]
    message = str(raised.value)
    assert f": {key}: " in message, message
    assert any(message.startswith(f"{path}:{place}: ") for place in places) or not (section or places), message


@pytest.mark.parametrize("kind", ["generator", "inverter"])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=x", "seed: got 'x', expected a whole number of 0 or more"),
        ("data.mirror='no'", "data.mirror: got .*no.*, expected true or false"),
        ("LR='0.1'", "lr: got .*0.1.*, expected a number above 0"),
        ("LR=-0.1", "lr: got -0.1, expected a number above 0"),
        ("LR=nan", "lr: got nan, expected a number above 0"),
        ("STEPS='3'", "steps: got .*3.*, expected a whole number of 1 or more"),
        ("STEPS=2.5", "steps: got 2.5, expected a whole number of 1 or more"),
        ("STEPS=true", "steps: got true, expected a whole number of 1 or more"),
        ("log_every=0", "log_every: got 0, expected a whole number of 1 or more"),
        ("data.mirorr=false", r"\[data\] has no setting 'mirorr'; did you mean 'mirror'"),
        ("data=1", "data: got 1, expected a section"),
        ("seed", "expected name=value"),
    ],
)
def test_what_is_set_is_checked(kind: str, override: str, message: str) -> None:
    place = {"generator": "stages.low.", "inverter": "schedule."}[kind]
    override = override.replace("LR", f"{place}lr").replace("STEPS", f"{place}steps")
    with pytest.raises(ValueError, match=rf"^override .* of .*toy_{kind}\.toml: .*{message}"):
        load_recipe(RECIPES / TOYS[kind], KINDS[kind], [override])


@pytest.mark.parametrize(
    ("kind", "overrides", "message"),
    [
        ("generator", ["discriminator.kind=stylegan"], "kind: got 'stylegan', expected one of 'stylegan2'"),
        ("generator", ["data.folder=a", "data.manifest=b"], "data: give one of manifest, folder and shards"),
        ("generator", ["stages.low.size=48"], "stages.low.size: got 48, expected one of 32, 64"),
        ("generator", ["stages.low.size=1024"], "stages.low.size: got 1024, expected no more than the"),
        ("generator", ["discriminator.changes=['spin']"], "changes: got .*spin.*, expected a list, each one of 'flip'"),
        ("inverter", ["schedule.rendered=99"], "schedule.rendered: got 99, expected no more than the"),
        ("inverter", ["samples.ridge=[]"], r"samples.ridge: got \[\], expected one or more"),
        ("inverter", ["samples.ridge=[0.1, 0]"], "ridge: got .*, expected a list, each a number above 0"),
        ("inverter", ["samples.ridge=0.1"], "ridge: got 0.1, expected a list"),
        ("inverter", ["inverter.depth=11"], "inverter.depth: got 11, expected one of 10, 18, 34"),
        ("encoder", ["encoder.log_mel=mfcc"], "encoder.log_mel: got 'mfcc', expected one of 'cmpc', 'cmpc2', 'ge2e'"),
        ("encoder", ["encoder.voice_backbone=vgg"], "voice_backbone: got 'vgg'"),
        ("encoder", ["voice_weights=x.pt"], "face_weights: got '', expected both"),
        ("encoder", ["start.ridge=1"], "start.ridge: needs frozen backbones"),
        ("encoder", ["views.windows_per_view=2"], "views.windows_per_view: needs frozen backbones"),
        ("encoder", ["objective.prototypes=[2.5]"], "prototypes: got .*, expected a list, each a whole number"),
        ("encoder", ["objective.temperature=0"], "temperature: got 0, expected a number above 0"),
        ("encoder", ["schedule.batch=1"], "schedule.batch: got 1, expected a whole number of 2 or more"),
        ("encoder", ["validation.fraction=1.5"], "validation.fraction: got 1.5, expected a number from 0 to 1"),
        ("encoder", ["validation.fraction=1"], "validation.fraction: got 1, expected less"),
        ("encoder", ["supervision.sex_weight=1"], "supervision.sex_weight: above 0, it needs the manifest"),
        ("encoder", ["augment.face.flip=true"], "augment.face: needs views.read = 'items'"),
        ("encoder", ["augment.voice.snr_db=[30, 10]"], "augment.voice.snr_db: got .*, expected from, to"),
        ("encoder", ["views.read=shards"], "views.read: got 'shards', expected one of 'features', 'inputs', 'items'"),
        ("encoder", ["encoder.image.crop=[0, 0, 1]"], "encoder.image.crop: got .*, expected a list of 4"),
        ("encoder", ["encoder.image.crop=[1, 0, 0, 1]"], "crop: got .*, expected left < right and top < bottom"),
        ("model", ["guidance.keep=first"], "guidance.keep: got 'first', expected one of 'best', 'last'"),
        ("model", ["guidance.steps=-1"], "guidance.steps: got -1, expected a whole number of 0 or more"),
        ("model", ["encodr=x"], "there is no setting 'encodr'; did you mean 'encoder'"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(kind: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=rf"{TOYS[kind]}.*: .*{message}"):
        load_recipe(RECIPES / TOYS[kind], KINDS[kind], overrides)


def test_a_required_section_is_asked_for(tmp_path: Path) -> None:
    for kind, section in (("encoder", "objective"), ("generator", "stages"), ("inverter", "schedule")):
        recipe = dict(read_recipe(RECIPES / TOYS[kind]))
        del recipe[section]
        (tmp_path / "r.toml").write_text(dump_recipe(recipe))
        with pytest.raises(ValueError, match=rf"r\.toml: {section}: missing, expected a section"):
            load_recipe(tmp_path / "r.toml", KINDS[kind])


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.name)
def test_every_shipped_recipe_is_sound(path: Path) -> None:
    cls = KINDS[kind_of(path)]
    recipe = load_recipe(path, cls)
    made = settings_of(recipe, cls)
    assert to_dict(read(cls, json.loads(json.dumps(to_dict(made))))) == to_dict(made)


def test_the_command_tells_the_line(tmp_path: Path) -> None:
    text = (RECIPES / "toy_generator.toml").read_text()
    (tmp_path / "r.toml").write_text(text.replace("seed = ", "sed = "))
    line = next(number for number, line in enumerate(text.splitlines(), 1) if line.startswith("seed = "))
    arguments = ["train", "generator", tmp_path / "r.toml", "-o", tmp_path / "run", "--dry-run"]
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == 1
    assert f"r.toml:{line}: sed: there is no setting 'sed'; did you mean 'seed'?" in result.output


# ------------------------------------------------------------------------------------------------------------ overrides


def fields_of(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a recipe by its dotted name, with its type."""
    for field in dataclasses.fields(cls):
        hint = hint_of(cls, field.name)
        inner = [part for part in (hint, *get_args(hint)) if isinstance(part, type) and dataclasses.is_dataclass(part)]
        name = f"{prefix}{field.name}" + (".NAME" if get_origin(hint) is dict else "")
        if inner:
            yield from fields_of(inner[0], f"{name}.")
        else:
            yield name, hint


@pytest.mark.parametrize("kind", TOYS)
def test_every_setting_that_exists_can_be_set(kind: str) -> None:
    """Whether the recipe states it or not: what is of a wrong kind is refused as such, not as unknown."""
    for key, hint in fields_of(KINDS[kind]):
        if not key.startswith("sources"):
            override = f"{key.replace('NAME', 'low')}={{ a = 1 }}"
            try:
                load_recipe(RECIPES / TOYS[kind], KINDS[kind], [override])
                assert hint is str
            except ValueError as error:
                assert "no setting" not in str(error), error


def test_values_are_read_as_toml_or_as_text() -> None:
    found = load_recipe(
        RECIPES / "toy_encoder.toml", EncoderRecipe,
        ["name=3/4", "license=7", "schedule.lr=1", "objective.prototypes=[2]", "tensorboard=true", "schedule.ema=0"],
    )  # fmt: skip
    assert (found["name"], found["license"], found["tensorboard"]) == ("3/4", "7", True)
    assert found["schedule"]["lr"] == 1.0 and isinstance(found["schedule"]["lr"], float)
    assert found["objective"]["prototypes"] == [2] and found["schedule"]["ema"] == 0.0


def test_recipes_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such recipe"):
        read_recipe(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("seed = = 1")
    with pytest.raises(ValueError, match=r"bad\.toml: not a TOML file"):
        read_recipe(tmp_path / "bad.toml")


def test_a_recipe_is_written_as_it_is_read(tmp_path: Path) -> None:
    held = {
        "text": 'quote " back \\ line \n del \x7f é 😀',
        "n": [1, 2.5],
        "on": False,
        "a b": {"c.d": {"e": 1e-30}},
        "f": {},
    }
    (tmp_path / "r.toml").write_text(dump_recipe(held), encoding="utf-8")
    assert read_recipe(tmp_path / "r.toml") == held


# --------------------------------------------------------------------------------------------------------------- schema


ANYTHING = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers()))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["k", "steps", "lr", "keep", "clamp"]), ANYTHING))
def test_whatever_is_given_is_taken_as_its_type_or_refused_by_name(values: dict[str, Any]) -> None:
    try:
        made = read(GuidanceConfig, values, SettingsFile("x.toml"))
    except ValueError as error:
        assert any(str(error).startswith(f"x.toml: {name}: got ") for name in values), error
        return
    for name, value in values.items():
        held = getattr(made, name)
        assert held == value and type(held) is type(GuidanceConfig.__dataclass_fields__[name].default)


def test_a_config_survives_json() -> None:
    for config in (VoiceStyleConfig.tiny(), VoiceStyleConfig("x", EncoderConfig.cmpc(224))):
        assert read(VoiceStyleConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_lines_are_found_in_all_ways_of_writing() -> None:
    text = 'a = 1\n[ b . c ]  # d\n"e" = 2\n\n[[f]]\ng.h = 3\n'
    lines = {key: SettingsFile("", text).line_of(key) for key in ("a", "b.c.e", "f", "f.g.h", "f.z", "zz")}
    assert lines == {"a": 1, "b.c.e": 3, "f": 5, "f.g.h": 6, "f.z": 5, "zz": None}


def test_changes_of_pictures_have_the_names_that_recipes_know() -> None:
    assert get_args(Change) == (*WARPS, *COLORS)
