"""A recording on disk as mono samples: any container and codec, all of it or a refusal, in bounded memory.

libsndfile decodes what it knows but MP3 (its decoder prints), FFmpeg everything else. A file may hold several streams
one after the other, as ``cat`` and web radios leave them: each is decoded by itself, for decoders stop after the first.
"""

from __future__ import annotations

import mmap
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr

from voicestyle.faults import fault_of
from voicestyle.riff import Part, repaired

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from torch import Tensor

MAX_RECORDING_S = 1800  # seconds of a recording that are read; more: half a gigabyte for features alone

_DECODE_BLOCK = 1 << 18  # samples of all channels together
_PEAK_LIMIT = 4.0  # lossy codecs overshoot full scale by a little; beyond this the samples are of another scale
# Demuxers that hold sound. Playlists and the like are left out: they would make FFmpeg open other files or addresses.
_DEMUXERS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dts,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,voc,w64,wav,wv"
_MP3 = re.compile(rb"\xff[\xe2-\xfe].{2}.{9,32}(?:Xing|Info)", re.DOTALL)  # the first frame of a stream with a length
# How a stream begins, by how its file begins.
_STREAMS = {
    b"OggS": re.compile(rb"OggS\x00[\x02\x03]"),
    b"fLaC": re.compile(rb"fLaC\x00\x00\x00\x22"),
    b"RIFF": re.compile(rb"RIFF....WAVEfmt ", re.DOTALL),
    b"riff": re.compile(rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00.{8}wave\xf3\xac", re.DOTALL),
    b"FORM": re.compile(rb"FORM....AIF[FC](?:COMM|FVER)", re.DOTALL),
    b"caff": re.compile(rb"caff\x00\x01\x00\x00desc"),
    b"#!AM": re.compile(rb"#!AMR(?:-WB)?\n"),
    b".snd": re.compile(rb"\.snd\x00\x00.[\x00-\xff].{4}\x00\x00\x00[\x01-\x1b]", re.DOTALL),
    b"FLV\x01": re.compile(rb"FLV\x01[\x01\x04\x05]\x00\x00\x00\x09\x00\x00\x00\x00"),
    b"TTA1": re.compile(rb"TTA1[\x01\x03]\x00.\x00", re.DOTALL),
    b"\x30\x26\xb2\x75": re.compile(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"),
    b"\x1aE\xdf\xa3": re.compile(rb"\x1aE\xdf\xa3.{1,40}(?:webm|matroska)", re.DOTALL),
}


def load_audio(path: str | Path, sample_rate: int = 16000) -> Tensor:
    """What `decode` returns, as a tensor."""
    import torch  # which a process that only decodes does without

    return torch.from_numpy(decode(path, sample_rate))


def decode(path: str | Path, sample_rate: int = 16000) -> np.ndarray:
    """A recording as mono float32 (num_samples,) in [-1, 1] at `sample_rate` Hz.

    Any container and codec of libsndfile or FFmpeg, any rate, channels averaged. A file that cannot be decoded to its
    declared end is refused, for half a clip would pass for a whole one; a length that its writer left open (0, or as
    much as the field holds) or that is off by less than 0.1 s and 1 % is none. Of more than `MAX_RECORDING_S` the first
    are taken, with a warning.

    Raises:
        FileNotFoundError: nothing at `path`
        ValueError: a directory, an empty, foreign or truncated file, samples that are not finite
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file, expected a recording; check the path")
    if path.is_dir():
        raise ValueError(f"{path}: a directory, expected a recording; name one file of it")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: empty file (0 bytes), expected a recording; copy or export it again")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            parts = [Part(data, start, stop, f"stream{path.suffix}") for start, stop in _streams(data)]
            return to_mono((_open(part, path) for part in parts), sample_rate, str(path))
    except (ValueError, OSError, ImportError):
        raise
    except Exception as error:  # decoders raise nearly anything
        if fault_of(error):
            raise
        raise ValueError(f"{path}: cannot be decoded ({error!r}); copy or export it again") from error


def _streams(data: mmap.mmap) -> list[tuple[int, int]]:
    """Where each of the streams in a file begins and ends."""
    is_mp3 = _is_mp3(data[:16])
    pattern = _MP3 if is_mp3 else _STREAMS.get(data[:4])
    starts = [found.start() for found in pattern.finditer(data)] if pattern else []
    if data[:4] == b"OggS":  # the streams of a film begin together, page after page
        ends = [
            start + 27 + len(sizes := data[start + 27 : start + 27 + sum(data[start + 26 : start + 27])]) + sum(sizes)
            for start in starts
        ]
        starts = [start for start, end in zip(starts, [-1, *ends], strict=False) if start != end]
    elif data[4:8] == b"ftyp":
        starts = list(_film_starts(data))
    starts = [0, *starts[1:]]
    return list(zip(starts, [*starts[1:], len(data)], strict=True))


def _film_starts(data: mmap.mmap) -> Iterator[int]:
    """Where MP4 files begin: at each ``ftyp`` among the outermost boxes."""
    place = 0
    while place + 8 <= len(data):
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if kind == b"ftyp":
            yield place
        if size == 1:
            size = int.from_bytes(data[place + 8 : place + 16], "big")
        if size < 8:  # 0: up to the end of the file
            return
        place += size


def _is_mp3(head: bytes) -> bool:
    """Whether a file begins as MP3 does (or ADTS, which FFmpeg takes too)."""
    return head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] >= 0xE2)


def _open(part: Part, path: Path) -> tuple[float, Iterator[np.ndarray]]:
    """Sample rate of a stream, and its samples in blocks (n, channels)."""
    shortfall = 0.0
    if not (_is_mp3(part[:16]) or path.suffix.lower() in (".mp3", ".mp2", ".mpga")):
        part, shortfall = repaired(part)
        try:
            file = soundfile.SoundFile(part)
        except (soundfile.LibsndfileError, TypeError):  # TypeError: a headerless .raw file
            file = None
        # not a FLAC stream of unknown length, which soundfile cannot read, nor what claims to hold nothing
        if file is not None and 0 < file.frames < 1 << 62:
            return file.samplerate, _soundfile_blocks(file, path, shortfall)
        part.seek(0)
    return _open_ffmpeg(part, path, shortfall)


def _soundfile_blocks(file: soundfile.SoundFile, path: Path, shortfall: float) -> Iterator[np.ndarray]:
    """Blocks (n, channels) of an open file; a ValueError where it ends before its header says."""
    num_read = 0
    with file:
        try:
            while len(block := file.read(max(1, _DECODE_BLOCK // file.channels), dtype="float32", always_2d=True)):
                num_read += len(block)
                yield block
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{path}: damaged or truncated ({error.error_string}); copy or export it again") from error
        read_s, log = num_read / file.samplerate, file.extra_info
        declared_s = file.frames / file.samplerate if file.format != "OGG" else 0.0
        declared_s = max(declared_s, _with_missing(read_s, shortfall))
        is_cut = file.format == "OGG" and "lacks an end-of-stream" in log and "Junk after the last page" in log
        if is_cut or _matters(declared_s - read_s, declared_s):
            raise ValueError(f"{path}: truncated after {read_s:.1f} s, more was expected; copy or export it again")


def _matters(missing_s: float, declared_s: float) -> bool:
    """Whether so much is missing that it is no rounding, padding or slip in a header."""
    return missing_s > 0.1 + 0.01 * declared_s


def _open_ffmpeg(part: Part, path: Path, shortfall: float) -> tuple[float, Iterator[np.ndarray]]:
    """Sample rate and blocks (n, channels) of the first audio stream that FFmpeg has a decoder for."""
    import av  # slow to load, and most recordings do not need it

    options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": ""}
    try:
        container = av.open(part, metadata_errors="replace", options=options)
    except (av.error.FFmpegError, ValueError) as error:
        raise ValueError(
            f"{path}: not a recording that libsndfile or FFmpeg can decode ({getattr(error, 'strerror', error)}), "
            "expected wav, flac, ogg, mp3, m4a or the like; check that the file is sound and is complete"
        ) from error
    for stream in container.streams.audio:
        if stream.codec_context is not None and stream.codec_context.sample_rate:
            return stream.codec_context.sample_rate, _ffmpeg_blocks(container, stream, part, path, shortfall)
    kind, is_unknown = container.format.name, bool(container.streams.audio)
    container.close()
    what = "sound of a codec that FFmpeg has no decoder for" if is_unknown else "no sound"
    raise ValueError(f"{path}: {what} in this {kind} file, expected a recording; export it as wav, flac or m4a")


def _ffmpeg_blocks(
    container: InputContainer, stream: AudioStream, part: Part, path: Path, shortfall: float
) -> Iterator[np.ndarray]:
    """Blocks (n, channels) of an audio stream; a ValueError where it ends too early or much of it is damaged."""
    import av

    rate = stream.codec_context.sample_rate
    num_read, lost_s, kind = 0, 0.0, None
    with container:
        try:
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.FFmpegError:  # players skip a bad packet, too, such as a tag between two songs
                    lost_s += float((packet.duration or 0) * packet.time_base) if packet.time_base else 0.0
                    continue
                for frame in frames:
                    if kind != (kind := (frame.format.name, frame.layout.name, frame.sample_rate)):
                        resampler = av.AudioResampler(format="fltp", rate=rate)  # the sample format, as a rule alone
                    for made in resampler.resample(frame):
                        num_read += made.samples
                        yield made.to_ndarray().T
        except av.error.FFmpegError as error:
            raise ValueError(f"{path}: damaged or truncated ({error.strerror}); copy or export it again") from error
        read_s, declared_s = num_read / rate, _declared_s(container, stream, part)
        declared_s = max(declared_s, _with_missing(read_s, shortfall))
    if _is_cut_page(part):
        raise ValueError(f"{path}: truncated after {read_s:.1f} s, more was expected; copy or export it again")
    if _matters(lost_s, read_s + lost_s):
        raise ValueError(f"{path}: damaged, {lost_s:.1f} s cannot be decoded; copy or export it again")
    if _matters(declared_s - read_s, declared_s):  # declared lengths are rounded and may count encoder delay
        raise ValueError(f"{path}: truncated after {read_s:.1f} s of {declared_s:.1f} s; copy or export it again")


def _declared_s(container: InputContainer, stream: AudioStream, part: Part) -> float:
    """Seconds that a container says to hold; 0 where it only guesses."""
    import av

    name = container.format.name
    if stream.duration and ("mov" in name or (name == "mp3" and _MP3.search(part.data, part.start, part.stop))):
        return float(stream.duration * (stream.time_base or 0))
    if ("matroska" in name or name == "flv") and container.duration and len(container.streams) == 1:
        return container.duration / av.time_base
    if stream.frames and stream.codec_context.name.startswith("pcm_"):  # AVI: of others it counts blocks
        return stream.frames / stream.codec_context.sample_rate
    return 0.0


def _with_missing(read_s: float, share: float) -> float:
    """Seconds of a recording of whose bytes that share is missing."""
    return read_s / (1 - share) if share < 1 else 0.0


def _is_cut_page(part: Part) -> bool:
    """Whether an Ogg file ends within a page."""
    start = part.data.rfind(b"OggS", part.start, part.stop) if part[:4] == b"OggS" else -1
    if start < 0 or start + 27 > part.stop:
        return start >= 0
    sizes = part.data[start + 27 : start + 27 + part.data[start + 26]]
    return start + 27 + len(sizes) + sum(sizes) > part.stop


def to_mono(streams: Iterable[tuple[float, Iterable[np.ndarray]]], sample_rate: int, name: str) -> np.ndarray:
    """Streams, each a rate in Hz and blocks (n, channels), as one mono waveform at `sample_rate`, clipped to [-1, 1].

    Raises:
        ValueError: no samples, samples that are not finite or of another scale, a rate that no recording has
    """
    made, limit, is_empty = [np.zeros(0, np.float32)], MAX_RECORDING_S * sample_rate, True
    for rate, blocks in streams:
        for block in _resampled(blocks, rate, sample_rate, name):
            is_empty = False
            made.append(block)
            if (limit := limit - len(block)) < 0:
                warnings.warn(
                    f"{name}: longer than {MAX_RECORDING_S // 60} min; the first {MAX_RECORDING_S // 60} are taken",
                    stacklevel=2,
                )
                break
        if limit < 0:
            break
    if is_empty:
        raise ValueError(f"{name}: no samples in it, expected a recording; copy or export it again")
    whole = np.concatenate(made)[: MAX_RECORDING_S * sample_rate]
    return whole.clip(-1, 1, out=whole)


def _resampled(blocks: Iterable[np.ndarray], rate: float, sample_rate: int, name: str) -> Iterator[np.ndarray]:
    """Blocks (n, channels) of one stream as mono ones (n,) at another rate, once each is seen to be sound."""
    if not 2000 <= rate <= 768000:
        raise ValueError(f"{name}: sample rate {rate:g} Hz, expected 2000 to 768000 Hz; check where it comes from")
    resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32") if rate != sample_rate else None
    num_read = 0
    for block in blocks:
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            where = (num_read + int(np.argmin(finite))) / rate
            raise ValueError(f"{name}: NaN or infinite samples from {where:.2f} s on, expected finite ones in [-1, 1]")
        if (peak := np.abs(block).max(initial=0.0)) > _PEAK_LIMIT:
            raise ValueError(f"{name}: a sample of {peak:.3g}, expected [-1, 1]; divide by the full scale, e.g. 32768")
        num_read += len(block)
        if len(block):
            mono = np.ascontiguousarray(block.mean(axis=1, dtype=np.float32))
            yield resampler.resample_chunk(mono) if resampler else mono
    if resampler and num_read:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
