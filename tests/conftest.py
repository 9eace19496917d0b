"""Every test has a runs folder of its own and never touches the network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ["LAB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# Read when huggingface_hub is first imported, by whichever test comes first: uploads go by LFS; the Xet test has its own process.
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(autouse=True)
def lab_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of runs."""
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads share an operation of torch, for one test."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
