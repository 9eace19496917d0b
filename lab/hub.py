"""Whether the Hugging Face Hub is within reach, and single files of its repositories."""

from __future__ import annotations

import os
import time
from functools import lru_cache
from pathlib import Path

SECONDS = 10
"""How long an answer is waited for."""


def reachable(endpoint: str | None = None) -> bool:
    """Whether the Hub answers; without a network the client itself would try each file for half a minute.

    ``LAB_OFFLINE=1`` asks only a given endpoint. What was found is remembered for a minute.
    """
    return (os.environ.get("LAB_OFFLINE") != "1" or endpoint is not None) and _answers(endpoint, _minute())


@lru_cache(maxsize=8)
def _answers(endpoint: str | None, minute: int) -> bool:
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session, httpx

    try:
        get_session().head(endpoint or constants.ENDPOINT, timeout=SECONDS)
    except (httpx.HTTPError, OSError):  # also the client's own word that HF_HUB_OFFLINE=1 forbids it
        return False
    return True


def _minute() -> int:
    """How long an answer is remembered: a network that comes back is noticed in the next minute."""
    return int(time.monotonic() // 60)


def file(
    name: str, path: str, revision: str = "", endpoint: str | None = None, token: bool | None = False
) -> Path | None:
    """A file of a model's repository at a revision; None when there is none within reach.

    Of a Hub that does not answer the copy on this machine will do. ``token`` None takes the stored one; without one the
    card of a gated model is public too.
    """
    return _file(name, path, revision, endpoint, token, _minute())


@lru_cache(maxsize=256)
def _file(name: str, path: str, revision: str, endpoint: str | None, token: bool | None, minute: int) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import httpx

    try:
        found = hf_hub_download(
            name,
            path,
            revision=revision or None,
            endpoint=endpoint,
            token=token,
            etag_timeout=SECONDS,
            local_files_only=not reachable(endpoint),
        )
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError, ValueError):
        return None
    return Path(found)
