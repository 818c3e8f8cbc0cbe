"""Who asks: sessions with unguessable names, and the jobs that belong to each."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from voicestyle.web.jobs import Job

COOKIE = "voicestyle_session"
MAX_SESSIONS = 10_000
MAX_KEPT = 8  # finished jobs a session, the newest


@dataclass(eq=False)
class Session:
    """One visitor."""

    id: str
    seen: float  # when it last asked for something
    is_admitted: bool = False  # has shown the token
    jobs: dict[str, Job] = field(default_factory=dict)

    @property
    def active(self) -> Job | None:
        """The job that waits or runs."""
        return next((job for job in self.jobs.values() if not job.is_over), None)

    def keep(self, job: Job) -> None:
        """Take a job in; the oldest finished ones are forgotten."""
        over = [name for name, old in self.jobs.items() if old.is_over]
        for name in over[: max(0, len(over) - MAX_KEPT + 1)]:
            del self.jobs[name]
        self.jobs[job.id] = job


class Sessions:
    """All visitors; those that ask for nothing for long are forgotten, with all that was made for them."""

    def __init__(self, idle_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.idle_s, self.clock = idle_s, clock
        self._all: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._all)

    def get(self, name: str | None) -> Session | None:
        """The session of that name, if there is one."""
        session = self._all.get(name or "")
        if session is not None:
            session.seen = self.clock()
        return session

    def new(self, is_admitted: bool = False) -> Session:
        """A session that nobody has yet; where there are too many, the one that was silent longest goes."""
        if len(self._all) >= MAX_SESSIONS:
            self.end(min(self._all.values(), key=lambda session: session.seen))
        session = Session(secrets.token_urlsafe(32), self.clock(), is_admitted)
        self._all[session.id] = session
        return session

    def end(self, session: Session) -> None:
        """Forget a session; what it still has running stops."""
        for job in session.jobs.values():
            job.stop("the session has ended")
        self._all.pop(session.id, None)

    def sweep(self) -> None:
        """Forget the sessions that were silent for long and have nothing running."""
        late = self.clock() - self.idle_s
        for session in [s for s in self._all.values() if s.seen < late and s.active is None]:
            self.end(session)
