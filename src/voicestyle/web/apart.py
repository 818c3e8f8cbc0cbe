"""Decoding in a process of its own: what FFmpeg makes of a stranger's file can be ended, whatever it hangs in."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path
from typing import IO, Any

import numpy as np

EVERY_S = 0.1  # between two looks at whether the job is still to go on
ERRORS = {"ValueError": ValueError, "FileNotFoundError": FileNotFoundError, "OSError": OSError}


class Decoder:
    """One process that decodes recordings, started before it is needed and again after it was ended.

    It talks over its pipes: a line of JSON each way, after ours float32 samples. No pickles: it reads strangers' files.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._reader = ThreadPoolExecutor(1, "voicestyle-decoded")

    def start(self) -> subprocess.Popen[bytes]:
        """The process that runs; a new one where there is none."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the server, which ends it
            )
        return self._process

    def load(self, path: Path | str, sample_rate: int, check: Callable[[], None]) -> np.ndarray:
        """What `decoding.decode` returns or raises; whatever `check`, asked now and then, raises ends the process."""
        process = self.start()
        assert process.stdin is not None and process.stdout is not None
        answer = self._reader.submit(_ask, process.stdin, process.stdout, {"path": str(path), "rate": sample_rate})
        try:
            while True:
                check()
                with contextlib.suppress(NotYet):
                    told, samples = answer.result(EVERY_S)
                    break
        except BaseException:  # the job is to stop, or the process has broken down
            self.stop()
            raise
        if "error" in told:
            raise ERRORS[told["error"]](told["said"])
        return samples

    def stop(self) -> None:
        """End the process, whatever it does."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _ask(to: IO[bytes], of: IO[bytes], asked: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
    """What the process tells, and samples."""
    try:
        to.write(json.dumps(asked).encode() + b"\n")
        to.flush()
        told = json.loads(of.readline())
        return told, np.frombuffer(bytearray(of.read(4 * told.get("samples", 0))), np.float32)
    except (OSError, ValueError):  # it has ended in the middle
        raise ValueError(f"{asked['path']}: it broke the decoder; convert it to wav or flac") from None


def main(asked: IO[bytes], told: IO[bytes]) -> None:
    """Decode what is asked for, until there is nothing more."""
    from voicestyle.decoding import decode

    warnings.simplefilter("ignore")  # what they say, the server says by itself
    for line in asked:
        job = json.loads(line)
        try:
            waveform = decode(job["path"], job["rate"])
        except tuple(ERRORS.values()) as error:
            kind = next(name for name in ERRORS if isinstance(error, ERRORS[name]))
            told.write(json.dumps({"error": kind, "said": str(error)}).encode() + b"\n")
        else:
            told.write(json.dumps({"samples": len(waveform)}).encode() + b"\n" + waveform.tobytes())
        told.flush()


if __name__ == "__main__":
    mine = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints must not stand among the samples
    main(sys.stdin.buffer, mine)
