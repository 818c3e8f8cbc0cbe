"""One process at a time, and no lock after a process that was killed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from voicestyle.locks import alone_with

HOLD = """
import sys, time
from voicestyle.locks import hold
lock = hold(sys.argv[1])
print("held", flush=True)
time.sleep(99)
"""


def test_the_second_process_is_told_at_once_and_a_killed_one_leaves_no_lock(tmp_path):
    place = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(place)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        message = r"run: another process is at work there; wait until it has ended"
        with pytest.raises(BlockingIOError, match=message), alone_with(place):
            pass
        other.kill()
    with alone_with(place), alone_with(place):  # one process may nest them
        assert [path.name for path in tmp_path.iterdir()] == [".run.lock"]
    assert not [*tmp_path.iterdir()]
