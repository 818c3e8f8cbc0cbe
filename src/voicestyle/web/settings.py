"""What a server may be told, and the limits that it holds its visitors to."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

MIN_TOKEN = 16  # characters: what nobody guesses by trying


@dataclass(frozen=True)
class ServeSettings:
    """How a server is reached, and how much one visitor may ask of it."""

    host: str = "127.0.0.1"
    port: int = 8000
    root_path: str = ""  # the prefix under which a proxy shows the page, e.g. "/voicestyle"
    token: str | None = None  # what visitors must know; needed for any address but this machine's own
    allowed_hosts: tuple[str, ...] = ()  # further names that the page is asked for by, behind a proxy
    max_upload_bytes: int = 25_000_000  # of one request, counted while it arrives
    max_voice_s: float = 300.0  # of a recording, counted while it is decoded
    max_pixels: int = 40_000_000  # of a photograph
    max_queue: int = 16  # jobs that wait
    max_faces: int = 4  # of one voice
    max_steps: int = 300  # guided steps of one job
    deadline_s: float = 300.0  # of one job, from when it starts
    upload_s: float = 120.0  # that an upload may take
    unattended_s: float = 6.0  # after which a watched job stops whose page has gone; longer than a reload takes
    idle_s: float = 1800.0  # after which a session that asks for nothing is forgotten
    grace_s: float = 20.0  # that a running job has to finish in, when the server is told to stop

    def __post_init__(self) -> None:
        if self.root_path and (not self.root_path.startswith("/") or self.root_path.endswith("/")):
            raise ValueError(f"root path: got {self.root_path!r}, expected something like /voicestyle")
        if self.token is not None and len(self.token) < MIN_TOKEN:
            raise ValueError(f"token: got {len(self.token)} characters, expected at least {MIN_TOKEN}")
        if self.token is None and not self.is_private:
            raise ValueError(f"host {self.host}: others can reach it, so it needs a token")

    @property
    def is_private(self) -> bool:
        """Whether only this machine can ask: the address and all names are its own."""
        return all(is_loopback(name) for name in (self.host, *self.allowed_hosts))


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own, by what it says (nothing is looked up)."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
