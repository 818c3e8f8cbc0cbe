"""The queue of the server, without a server: order, waiting times, stopping, and what happens at the end."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from voicestyle.web.jobs import Job, Jobs, QueueFull  # noqa: E402
from voicestyle.web.sessions import MAX_KEPT, Sessions  # noqa: E402


def quick(job: Job) -> dict[str, Any]:
    return {"kind": job.kind}


class Gate:
    """Work that goes step by step until it is let through."""

    def __init__(self) -> None:
        self.runs, self.opens = threading.Event(), threading.Event()
        self.steps = 0

    def __call__(self, job: Job) -> dict[str, Any]:
        self.runs.set()
        while not self.opens.wait(0.005):
            self.steps += 1
            job.emit("step", {"step": self.steps})
        return {}

    async def until_it_runs(self) -> None:
        await asyncio.to_thread(self.runs.wait, 30)


class Server:
    """Jobs with their worker, for as long as the block lasts."""

    def __init__(self, max_queue: int = 4, deadline_s: float = 60, unattended_s: float = 60) -> None:
        self.jobs = Jobs(max_queue, deadline_s, unattended_s)

    async def __aenter__(self) -> Jobs:
        self.tasks = [asyncio.create_task(self.jobs.run()), asyncio.create_task(self.jobs.watch())]
        return self.jobs

    async def __aexit__(self, *_: Any) -> None:
        await self.jobs.drain(5)
        for task in self.tasks:
            task.cancel()


def test_jobs_come_one_after_the_other_and_know_how_long_they_wait(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Server() as jobs:
            first = Job("embed", quick)
            jobs.add(first)
            await first.over()
            assert first.status == "done" and first.result == {"kind": "embed"}
            gate = Gate()
            running, waiting, last = Job("generate", gate), Job("embed", quick), Job("embed", quick)
            for job in (running, waiting, last):
                jobs.add(job)
            await gate.until_it_runs()
            assert [jobs.place(job) for job in (running, waiting, last)] == [0, 1, 2]
            assert jobs.wait_s(last) is None  # nobody knows yet how long a generation takes
            gate.opens.set()
            await last.over()
            assert [job.status for job in (running, waiting, last)] == ["done"] * 3
            assert jobs.wait_s() == 0

    asyncio.run(scene())


def test_what_is_too_much_is_refused() -> None:
    async def scene() -> None:
        async with Server(max_queue=1) as jobs:
            gate = Gate()
            running = Job("generate", gate)
            jobs.add(running)
            await gate.until_it_runs()
            jobs.add(Job("embed", quick))
            with pytest.raises(QueueFull):
                jobs.add(Job("embed", quick))
            gate.opens.set()

    asyncio.run(scene())


def test_a_job_that_runs_stops_at_its_next_step_and_one_that_waits_at_once(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Server() as jobs:
            gate, upload = Gate(), tmp_path / "upload"
            upload.touch()
            running, waiting = Job("generate", gate, upload), Job("embed", quick)
            jobs.add(running)
            jobs.add(waiting)
            await gate.until_it_runs()
            waiting.stop()
            assert waiting.status == "stopped"
            running.stop()
            await running.over()
            assert running.status == "stopped" and not upload.exists()
            again = Job("embed", quick)
            jobs.add(again)
            await again.over()
            assert again.status == "done"

    asyncio.run(scene())


def test_a_job_ends_at_its_deadline_or_when_its_page_has_gone() -> None:
    async def scene() -> None:
        async with Server(deadline_s=0.05) as jobs:
            job = Job("generate", Gate())
            jobs.add(job)
            await job.over()
            assert job.status == "stopped" and "longer" in job.problem["detail"]
        async with Server(unattended_s=0.1) as jobs:
            watched, gate = Job("generate", Gate(), is_watched=True), Gate()
            jobs.add(watched)
            async for told in watched.follow():
                if told and told[1].name == "step":
                    break  # the tab is closed
            await watched.over()
            assert watched.status == "stopped"
            program = Job("generate", gate)  # of a program, which asks for the state now and then
            jobs.add(program)
            await asyncio.sleep(0.3)
            assert program.status == "running"
            gate.opens.set()

    asyncio.run(scene())


def test_events_are_told_again_from_any_place() -> None:
    async def scene() -> None:
        async with Server() as jobs:
            job = Job("embed", quick)
            jobs.add(job)
            names = [told[1].name async for told in job.follow() if told]
            assert names == ["started", "done"]
            assert [told[0] async for told in job.follow(1) if told] == [1]

    asyncio.run(scene())


@pytest.mark.parametrize(("grace_s", "status"), [(30, "done"), (0.05, "stopped")])
def test_at_the_end_work_is_finished_in_time_or_returned(grace_s: float, status: str) -> None:
    async def scene() -> None:
        jobs, gate = Jobs(4, 60, 60), Gate()
        task = asyncio.create_task(jobs.run())
        running, waiting = Job("generate", gate), Job("embed", quick)
        jobs.add(running)
        jobs.add(waiting)
        await gate.until_it_runs()
        if status == "done":
            asyncio.get_running_loop().call_later(0.1, gate.opens.set)
        await jobs.drain(grace_s)
        assert (running.status, waiting.status) == (status, "stopped")
        with pytest.raises(QueueFull):
            jobs.add(Job("embed", quick))
        task.cancel()

    asyncio.run(scene())


def test_what_breaks_tells_nothing_of_the_inside(caplog: pytest.LogCaptureFixture) -> None:
    def broken(job: Job) -> dict[str, Any]:
        raise RuntimeError("/private/upload: secret")

    async def scene() -> Job:
        async with Server() as jobs:
            job = Job("embed", broken)
            jobs.add(job)
            await job.over()
            return job

    job = asyncio.run(scene())
    assert job.status == "failed" and job.problem["status"] == 500
    assert "secret" not in str(job.problem) + caplog.text


def test_sessions_are_forgotten_and_keep_a_bounded_number_of_jobs() -> None:
    async def scene() -> None:
        now = [0.0]
        sessions = Sessions(idle_s=10, clock=lambda: now[0])
        session = sessions.new()
        for _ in range(3 * MAX_KEPT):
            job = Job("embed", quick)
            job.end("done", {})
            session.keep(job)
        assert len(session.jobs) == MAX_KEPT
        now[0] = 9
        assert sessions.get(session.id) is session and sessions.get("x" * 43) is None and sessions.get(None) is None
        now[0] = 18
        sessions.sweep()
        assert len(sessions) == 1
        now[0] = 30
        sessions.sweep()
        assert len(sessions) == 0

    asyncio.run(scene())
