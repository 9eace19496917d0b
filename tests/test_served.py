"""Writing through a real OpenAI-compatible server: ``transformers serve`` with a tiny model on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.config import GenerateConfig
from lab.endpoint import EndpointModel
from lab.models import Sampling
from lab.progress import Progress
from lab.run import new_run
from lab.stages import generate
from tests.e2e.serving import free_port
from tests.tiny import tiny_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(address, name of the model), while the tests last."""
    folder, port = tmp_path_factory.mktemp("served"), free_port()
    model = tiny_model(folder / "model")
    command = [Path(sys.executable).with_name("transformers"), "serve", model, "--device", "cpu", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        while process.poll() is None:
            try:
                urllib.request.urlopen(f"http://localhost:{port}/health", timeout=5)
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        assert process.poll() is None, (folder / "log").read_text("utf-8")
        yield f"http://localhost:{port}/v1", model
    finally:
        process.terminate()
        process.wait(30)


def test_every_request_is_answered_in_any_order(server: tuple[str, str]) -> None:
    url, name = server
    model = EndpointModel(f"api:{name}", base_url=url)
    found = dict(model.write([f"이야기 {i}" for i in range(8)], Sampling(max_new_tokens=8), range(8), 4))
    assert set(found) == set(range(8)) and model.failed == []
    assert all(0 < a.tokens <= 8 for a in found.values())
    assert model.completion_tokens == sum(a.tokens for a in found.values())


def test_the_stage_goes_on_where_it_stopped(server: tuple[str, str]) -> None:
    url, name = server
    run = new_run()
    setting = {"teacher": f"api:{name}", "base_url": url, "batch_size": 4, "max_new_tokens": 16}
    for pairs in (4, 8):
        generate.run(run, GenerateConfig(pairs=pairs, **setting), Progress(run, "generate", []))
    rows = list(run.pairs())
    assert len(rows) == len({r.id for r in rows}) == 8 and all(r.teacher.startswith(f"api:{name}") for r in rows)
