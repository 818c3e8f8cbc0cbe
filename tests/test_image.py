"""Pictures: round trips, every mode and every bad file, resampling against Pillow, alignment, contact sheets."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from fill import inp
from structure import SOURCE
from voicestyle import align
from voicestyle.align import CANONICAL_FACE_BOX, align_box, align_face
from voicestyle.image import crop_resize, from_pil, load_image, open_image, picture_size, save_png, to_pil
from voicestyle.sheet import contact_sheet

RGB = (200, 100, 50)


def picture(width: int = 12, height: int = 8, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def as_bytes(image: torch.Tensor) -> np.ndarray:
    (pil,) = to_pil(image)
    return np.asarray(pil)


# PIL <-> tensors


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_picture_tensor_picture(pixels: np.ndarray) -> None:
    image = from_pil(Image.fromarray(pixels))
    assert image.dtype == torch.float32 and image.shape == (1, 3, *pixels.shape[:2])
    assert image.min() >= -1 and image.max() <= 1
    np.testing.assert_array_equal(as_bytes(image), pixels)


@given(hnp.arrays(np.float32, (2, 3, 4, 5), elements=st.floats(-3, 3, width=32)))
def test_tensor_picture_tensor(values: np.ndarray) -> None:
    back = torch.cat([from_pil(pil) for pil in to_pil(torch.from_numpy(values))])
    np.testing.assert_allclose(back.numpy(), values.clip(-1, 1), atol=0.5001 / 127.5)


def test_golden_bytes(golden_dir: Path) -> None:
    golden = np.load(golden_dir / "projector.npz")["to_uint8"]
    got = as_bytes(inp("u8", (1, 3, 16, 16)))[None].astype(int)
    assert set(np.unique(got - golden)) <= {0, 1}  # the reference cuts decimals off, which darkens; ours rounds


def test_every_byte_has_one_value() -> None:
    levels = from_pil(Image.fromarray(np.arange(256, dtype=np.uint8)[None].repeat(2, 0)))[0, 0, 0]
    torch.testing.assert_close(levels, torch.linspace(-1, 1, 256))


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 1, 4, 4), (1, 4, 4, 3)])
def test_to_pil_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, 3, H, W\)"):
        to_pil(torch.zeros(shape))


def test_to_pil_refuses_nan_but_clamps_infinity() -> None:
    image = torch.zeros(1, 3, 2, 2)
    image[0, 0, 0, 0] = torch.inf
    assert as_bytes(image)[0, 0, 0] == 255
    image[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        to_pil(image)


def test_resize_is_bicubic_to_a_square() -> None:
    pil = picture(20, 10)
    expected = np.asarray(pil.resize((6, 6), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(as_bytes(from_pil(pil, 6)), expected)


# Modes


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV"])
def test_modes_become_rgb(mode: str) -> None:
    source = Image.new("RGB", (5, 4), (255, 255, 255)).convert("RGBA" if mode == "RGBa" else "RGB")
    image = from_pil(source.convert("L").convert("PA") if mode == "PA" else source.convert(mode))
    assert image.shape == (1, 3, 4, 5)
    np.testing.assert_allclose(image.numpy(), 1, atol=0.02)


def test_transparency_shows_white() -> None:
    rgba = Image.new("RGBA", (2, 1), (*RGB, 0))
    rgba.putpixel((1, 0), (*RGB, 255))
    assert as_bytes(from_pil(rgba)).tolist() == [[[255, 255, 255], list(RGB)]]
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([*RGB])
    palette.info["transparency"] = 0
    assert as_bytes(from_pil(palette)).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_16_bit_gray_is_scaled(mode: str, tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    deep = Image.fromarray(values) if mode == "I;16" else Image.fromarray(values.astype(np.int32))
    assert deep.mode == mode
    expected = [[[level] * 3 for level in (0, 1, 128, 255)]]
    assert as_bytes(from_pil(deep)).tolist() == expected
    suffix = "png" if mode == "I;16" else "tiff"
    deep.save(tmp_path / f"deep.{suffix}")
    assert as_bytes(load_image(tmp_path / f"deep.{suffix}")).tolist() == expected


def test_float_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="floating-point pixels"):
        from_pil(Image.new("F", (2, 2)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    upright = picture(8, 6)
    stored = {  # how a camera held in this way stores the upright picture
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    pil = upright if stored is None else upright.transpose(stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    pil.save(tmp_path / "camera.png", exif=exif)
    np.testing.assert_array_equal(as_bytes(load_image(tmp_path / "camera.png")), np.asarray(upright))


# Files


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tiff"])
def test_formats(suffix: str, tmp_path: Path) -> None:
    Image.new("RGB", (6, 5), RGB).save(tmp_path / f"a.{suffix}")
    image = load_image(tmp_path / f"a.{suffix}", size=4)
    assert image.shape == (1, 3, 4, 4)
    np.testing.assert_allclose(as_bytes(image).astype(int), np.broadcast_to(RGB, (4, 4, 3)), atol=4)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.png", tmp_path):
        with pytest.raises(FileNotFoundError, match="no such picture"):
            load_image(path)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"<html></html>", b"RIFF\x24\0\0\0WAVEfmt ", b"\x89PNG\r\n\x1a\n"]
)
def test_foreign_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png: (not a|damaged)"):
        load_image(tmp_path / "a.png")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n"


def test_no_picture_starts_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would hand an EPS to Ghostscript, whatever its name is."""
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("started another program"))
    (tmp_path / "face.jpg").write_bytes(EPS)
    for read in (load_image, picture_size):
        with pytest.raises(ValueError, match="face.jpg: not a picture, or of another format; expected JPEG, PNG"):
            read(tmp_path / "face.jpg")


def test_there_is_one_door_for_pictures() -> None:
    text = "".join(path.read_text() for path in SOURCE.rglob("*.py"))
    assert text.count("Image.open(") == 1


def test_the_size_of_a_picture_and_pictures_from_memory(tmp_path: Path) -> None:
    picture(7, 5).save(tmp_path / "a.png")
    assert picture_size(tmp_path / "a.png") == (7, 5)
    data = io.BytesIO((tmp_path / "a.png").read_bytes())
    assert open_image(data, "a.tar: a.png").size == (7, 5)
    with pytest.raises(ValueError, match="^a.tar: a.png: damaged or truncated"):
        open_image(io.BytesIO(data.getvalue()[:50]), "a.tar: a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tiff"])
def test_truncated_files(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    picture(40, 40).save(path)
    whole = path.read_bytes()
    for part in (0.1, 0.5, 0.8):
        path.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(ValueError, match=r"a\.\w+: (not a|damaged)"):
            load_image(path)


@settings(max_examples=60, deadline=None)
@given(suffix=st.sampled_from(["png", "jpg", "gif", "bmp", "tiff"]), position=st.floats(0, 1), byte=st.integers(0, 255))
def test_damaged_bytes_give_a_picture_or_a_clear_error(
    suffix: str, position: float, byte: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("damaged") / f"a.{suffix}"
    picture().save(path)
    data = bytearray(path.read_bytes())
    data[int(position * (len(data) - 1))] = byte
    path.write_bytes(data)
    try:
        assert load_image(path).shape[:2] == (1, 3)
    except ValueError as error:
        assert f"a.{suffix}" in str(error)


@pytest.mark.parametrize("factor", [0.9, 0.4])
def test_decompression_bombs_are_refused(factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(100, 100).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(factor * 10_000))  # Pillow warns above, and raises above twice
    with pytest.raises(ValueError, match=r"bomb\.png: more than 89 megapixels"):
        load_image(tmp_path / "bomb.png")


def test_png_keeps_pixels_and_metadata(tmp_path: Path) -> None:
    image = from_pil(picture())
    metadata = {"Software": "voicestyle", "Description": "AI-generated face", "name": "Zoë – 声"}
    save_png(image, tmp_path / "face.png", metadata)
    assert torch.equal(load_image(tmp_path / "face.png"), image)
    with Image.open(tmp_path / "face.png") as pil:
        assert pil.text == metadata
    save_png(picture(seed=1), tmp_path / "face.png")
    assert torch.equal(load_image(tmp_path / "face.png"), from_pil(picture(seed=1)))
    assert [p.name for p in tmp_path.iterdir()] == ["face.png"]


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "face.png"
    save_png(picture(), path)
    before = path.read_bytes()

    def fail(self: Image.Image, file: Path, **options: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_png(picture(seed=1), path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["face.png"]


def test_save_png_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.png"):
        save_png(picture(), tmp_path / "face.jpg")
    with pytest.raises(ValueError, match="got 2 pictures"):
        save_png(torch.zeros(2, 3, 4, 4), tmp_path / "face.png")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        save_png(picture(), tmp_path / "absent" / "face.png")


# Crops


def test_whole_frame_at_its_size_is_itself() -> None:
    image = inp("image", (2, 3, 7, 7), lo=-1)
    torch.testing.assert_close(crop_resize(image, (0, 0, 1, 1), 7), image)


@given(
    edges=st.tuples(*[st.floats(-0.4, 0.45)] * 2, *[st.floats(0.55, 1.4)] * 2),
    size=st.integers(1, 40),
    shape=st.tuples(st.integers(2, 30), st.integers(2, 30)),
)
@settings(deadline=None)
def test_crop_equals_pillow_on_a_white_canvas(
    edges: tuple[float, float, float, float], size: int, shape: tuple[int, int]
) -> None:
    height, width = shape
    values = np.random.default_rng(0).uniform(-1, 1, (height, width)).astype(np.float32)
    left, top, right, bottom = (e * side for e, side in zip(edges, (width, height) * 2, strict=True))
    pads = [max(0, int(np.ceil(p))) for p in (-left, -top, right - width, bottom - height)]
    canvas = np.pad(values, ((pads[1], pads[3]), (pads[0], pads[2])), constant_values=1)
    box = (left + pads[0], top + pads[1], right + pads[0], bottom + pads[1])
    expected = Image.fromarray(canvas).resize((size, size), Image.Resampling.BILINEAR, box=box)
    got = crop_resize(torch.from_numpy(values)[None, None].expand(1, 3, -1, -1), edges, size)
    np.testing.assert_allclose(got[0, 2].numpy(), np.asarray(expected), atol=2e-4)


def test_crop_equals_antialiased_interpolation() -> None:
    image = inp("image", (1, 3, 64, 64), lo=-1)
    expected = torch.nn.functional.interpolate(image, (20, 20), mode="bilinear", antialias=True)
    torch.testing.assert_close(crop_resize(image, (0, 0, 1, 1), 20), expected, atol=1e-5, rtol=1e-4)


def test_far_outside_is_white() -> None:
    image = -torch.ones(1, 3, 8, 8)
    assert (crop_resize(image, (1.5, 1.5, 2, 2), 4) == 1).all()
    half = crop_resize(image, (-1, 0, 1, 1), 8)
    assert (half[..., :3] == 1).all() and (half[..., 5:] == -1).all()


def test_crop_has_the_right_gradient() -> None:
    image = inp("image", (1, 3, 5, 6), lo=-1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: crop_resize(x, (-0.1, 0.2, 0.9, 1.1), 4), image)


@pytest.mark.parametrize("crop", [(0.5, 0, 0.5, 1), (0, 1, 1, 0), (float("nan"), 0, 1, 1)])
def test_crop_refuses_empty_boxes(crop: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="expected left < right"):
        crop_resize(torch.zeros(1, 3, 8, 8), crop, 4)


def test_crop_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"expected \(N, 3, H, W\)"):
        crop_resize(torch.zeros(3, 8, 8), (0, 0, 1, 1), 4)


# Alignment


def test_canonical_box_gives_the_frame_itself() -> None:
    pil = picture(64, 64)
    box = tuple(64 * edge for edge in CANONICAL_FACE_BOX)
    np.testing.assert_allclose(np.asarray(align_box(pil, box, 64)).astype(int), np.asarray(pil), atol=1)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_alignment_follows_the_face(scale: float) -> None:
    frame = picture(16, 16).resize((120, 120), Image.Resampling.BICUBIC)
    large = frame.resize((round(120 * scale),) * 2, Image.Resampling.BICUBIC)
    photo = Image.new("RGB", (500, 400), RGB)
    photo.paste(large, (70, 30))
    box = [120 * scale * edge + (70, 30)[i % 2] for i, edge in enumerate(CANONICAL_FACE_BOX)]
    aligned = np.asarray(align_box(photo, box, 120)).astype(float)
    assert np.abs(aligned - np.asarray(frame))[4:-4, 4:-4].mean() < 4


def test_alignment_is_white_outside_of_the_picture() -> None:
    aligned = np.asarray(align_box(Image.new("RGB", (40, 40), (0, 0, 0)), (0, 0, 40, 40), 50))
    assert (aligned[:, 0] == 255).all() and (aligned[0] == 255).all() and (aligned[25, 25] == 0).all()


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (9, 5, 5, 9), (-20, 0, -10, 10), (0, 50, 10, 60), (0, 0, 1e9, 1e9)])
def test_alignment_refuses_impossible_boxes(box: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="face box"):
        align_box(picture(40, 40), box, 16)


def test_no_face_and_no_dlib(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dlib")
    with pytest.raises(ValueError, match="no face found in a picture of 200 x 100 px"):
        align_face(Image.new("RGB", (200, 100)), 64)
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(ImportError, match=r"voicestyle\[align\]"):
        align_face(Image.new("RGB", (200, 100)), 64)


def test_aligned_faces_match_the_canonical_frame(shared_dir: Path) -> None:
    pytest.importorskip("dlib")
    face = Image.open(sorted((shared_dir / "data" / "pairs" / "frontal").glob("*.jpg"))[0])
    photo = Image.new("RGB", (900, 700), (255, 255, 255))
    photo.paste(face.resize((448, 448)), (300, 120))
    aligned = from_pil(align_face(photo, 112))
    shifts = [(aligned - from_pil(face.resize((112, 112)))).abs().mean(), (aligned - 1).abs().mean()]
    assert shifts[0] < 0.5 * shifts[1]


# Contact sheets


def test_contact_sheet_shows_every_tile_on_white() -> None:
    red, dark = -torch.ones(3, 8, 8), -torch.ones(1, 3, 20, 10)
    red[0] = 1
    rows = [("A voice", [(red, "heard"), (dark, "two\nlines"), (None, "none")]), ("Another", [(red, "")])]
    sheet = np.asarray(contact_sheet(rows, tile=64))
    assert (sheet[0] == 255).all() and (sheet[-1] == 255).all() and (sheet[:, 0] == 255).all()
    is_red = (sheet == (255, 0, 0)).all(2)
    assert 1.8 * 64**2 < is_red.sum() < 2 * 64**2  # two tiles, less their corners and edges
    assert 0.4 * 64**2 < (sheet == 0).all(2).sum() < 0.5 * 64**2  # fitted, not stretched


def test_contact_sheet_grows_with_its_rows() -> None:
    rows = [("A title", [(None, "a caption far wider than its tile")])]
    one, three = contact_sheet(rows, tile=48), contact_sheet(rows * 3, tile=48)
    assert one.width == three.width < 200 and 2 * one.height < three.height < 3 * one.height
    assert (np.asarray(one)[:, -5:] == 255).all()


def test_titles_are_broken_into_lines_and_take_no_room_where_there_are_none() -> None:
    def sheet(title: str) -> np.ndarray:
        return np.asarray(contact_sheet([(title, [(None, "")])], tile=48))

    none, one, two, endless = map(sheet, ("", "A title", "A title that takes two lines", "W" * 200))
    line = one.shape[0] - none.shape[0]
    assert line > 0 and two.shape[0] == none.shape[0] + 2 * line and endless.shape == one.shape
    assert (endless[:, -5:] == 255).all()
    assert (two[12 + line : 12 + 2 * line] < 128).any()  # the second line is written


def test_captions_outside_of_the_font_are_folded() -> None:
    sheets = [contact_sheet([(text, [(None, text)])], tile=96) for text in ("Zoë – 声", "Zoe - ?")]
    assert sheets[0].tobytes() == sheets[1].tobytes()


def test_empty_contact_sheet() -> None:
    with pytest.raises(ValueError, match="got no rows"):
        contact_sheet([])


def test_warnings_filters_are_restored(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    before = list(warnings.filters)
    load_image(tmp_path / "a.png")
    assert list(warnings.filters) == before


@pytest.mark.parametrize(
    ("moved", "elsewhere"), [(None, False), (0.0, False), (0.1, False), (0.13, True), (-0.13, True), (0.3, True)]
)
def test_a_photograph_that_is_not_aligned_is_noticed(monkeypatch, moved: float | None, elsewhere: bool) -> None:
    """Of several faces the one that is nearest to the canonical frame counts; no face says nothing."""
    monkeypatch.setattr(align.importlib.util, "find_spec", lambda name: name)
    edges = [np.array(align.CANONICAL_FACE_BOX) + shift for shift in ([] if moved is None else [moved, 0.5])]
    monkeypatch.setattr(align, "detect_faces", lambda pil: [tuple(edge * pil.width) for edge in edges])
    picture = Image.new("RGB", (300, 300))
    assert align.lies_elsewhere(picture) is elsewhere
    apart = align.edges_apart(picture)
    assert apart is None if moved is None else apart == pytest.approx(abs(moved))
    monkeypatch.setattr(align.importlib.util, "find_spec", lambda name: None)
    assert not align.lies_elsewhere(picture)  # without dlib
