"""Model folders on a Hugging Face hub: fetched into its cache by name and revision, and put there.

Settings are those of huggingface-hub: HF_HOME or HF_HUB_CACHE (where it keeps files), HF_HUB_OFFLINE=1 (only what is
kept), HF_ENDPOINT (another hub), HF_TOKEN or its own login. Only configuration and weights that cannot run code travel.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

SCHEME = "hf://"
FILES = ["config.json", "*.safetensors", "README.md"]
_ADDRESS = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


def parse(address: str) -> tuple[str, str | None]:
    """Repository and revision of "hf://ORG/NAME" or "hf://ORG/NAME@REVISION" (a branch, a tag, or a commit)."""
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise ValueError(f"{address}: expected hf://ORG/NAME, or hf://ORG/NAME@REVISION with a branch, tag or commit")
    return found["repo"], found["revision"]


def fetch(address: str) -> Path:
    """The folder in the cache that holds the model; what is there already is not fetched again.

    Raises:
        ImportError: huggingface-hub is not installed
        FileNotFoundError: no such model or revision, or none that this machine may read
        ConnectionError: the hub cannot be reached, and the cache does not hold the model
    """
    repo, revision = parse(address)
    hub = _hub()
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(hub.snapshot_download(repo, revision=revision, allow_patterns=FILES, endpoint=_endpoint()))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ConnectionError(
            f"{address}: not in the cache, and the hub is not asked (offline) or not reachable; connect this machine, "
            "unset HF_HUB_OFFLINE, or copy the model folder here and name it"
        ) from error
    except HfHubHTTPError as error:
        raise FileNotFoundError(
            f"{address}: {_reason(error)}; check the name, and HF_TOKEN for what is private"
        ) from error


def push(folder: str | Path, address: str, private: bool = True) -> str:
    """Where the model of a folder can be seen now: its configuration, weights and card, in one commit.

    Raises:
        ImportError: huggingface-hub is not installed
        ValueError: an address with a commit, which nothing can be put into
        PermissionError: the hub does not know this machine, or it may not write there
        ConnectionError: the hub cannot be reached
    """
    repo, revision = parse(address)
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ValueError(f"{address}: a commit does not change; name a branch, or none")
    hub = _hub()
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = hub.HfApi(endpoint=_endpoint())
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        made = api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=FILES, revision=revision, commit_message="Add the model"
        )
    except (HfHubHTTPError, LocalTokenNotFoundError) as error:
        raise PermissionError(f"{address}: {_reason(error)}; log in with `hf auth login`, or set HF_TOKEN") from error
    except httpx.TransportError as error:
        raise ConnectionError(f"{address}: the hub cannot be reached ({error})") from error
    return str(made.commit_url)


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError("models on a hub need huggingface-hub: pip install 'voicestyle[hub]'") from error
    return huggingface_hub


def _endpoint() -> str | None:
    """Another hub than the default one, asked for when it is needed and not when a module is first loaded."""
    return os.environ.get("HF_ENDPOINT")


def _reason(error: Exception) -> str:
    """The hub's answer in one line."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip().rstrip(".")
