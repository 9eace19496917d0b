"""A finished run to look at: shipped as data/example.zip, so that a newcomer finds every tab filled at once.

``python -m lab.example`` makes it anew with the embedded pair (after the pair was rebuilt): a real run, nothing written
by hand. A visitor who opens it gets a run of their own, to look at and to play with.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from lab import archive
from lab.domain import DATA
from lab.run import Run, new_run

FILE = DATA / "example.zip"
PAIRS = 800


def take(owner: str, title: str) -> Run:
    """A copy of the example as a run of this owner."""
    run = archive.unpack(FILE, owner)
    run.rename(title)
    return run


def build() -> None:
    """Run the whole job on the embedded pair and pack it."""
    from lab.__main__ import main as lab

    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"LAB_HOME": folder, "LAB_OFFLINE": "1"}
        run = new_run("mini", "example")
        for command in (
            ["run", run.id, "--pairs", str(PAIRS)],
            ["publish", run.id, "--dry-run"],
        ):
            if lab(command):
                sys.exit(1)
        # The same weights stand in train/; publishing puts them there anew.
        for weights in run.stage_folder("publish").rglob("*.safetensors"):
            weights.unlink()
        shutil.move(archive.pack(run, Path(folder)), FILE)
    print(f"{FILE}: {FILE.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    build()
