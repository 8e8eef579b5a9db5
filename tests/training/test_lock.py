"""One writer per folder: a second process is refused by name, and a dead one leaves no
lock.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_task import TinyTask

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.recipes import runs
from dalle2_edu.training import TrainConfig, train
from dalle2_edu.training.lock import one_writer

HOLD = """
import sys, time
from pathlib import Path
from dalle2_edu.training.lock import one_writer
with one_writer(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path: Path) -> subprocess.Popen[str]:
    """Another process that writes into `tmp_path`."""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_writer_is_refused_by_name(
    writer: subprocess.Popen[str], tmp_path: Path
) -> None:
    refused = (
        rf"{tmp_path} is being written by process {writer.pid} on .*another folder"
    )
    config = TrainConfig(steps=1, batch_size=4)
    for resume in (False, True):
        with pytest.raises(Dalle2EduError, match=refused):
            train(TinyTask(config), tmp_path, resume, progress=False, device="cpu")
    with pytest.raises(Dalle2EduError, match=refused):
        runs.publish(tmp_path)
    with pytest.raises(Dalle2EduError, match=refused):
        runs.run("clip", "smoke", tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == [".writer"]


def test_a_killed_writer_leaves_no_lock(
    writer: subprocess.Popen[str], tmp_path: Path
) -> None:
    writer.send_signal(signal.SIGKILL)
    writer.wait(timeout=30)
    config = TrainConfig(steps=1, batch_size=4)
    train(TinyTask(config), tmp_path, progress=False, device="cpu")
    assert (tmp_path / "checkpoint" / "step-00000001").is_dir()


def test_the_same_process_may_ask_again_and_lets_go(tmp_path: Path) -> None:
    for _ in range(2):
        with one_writer(tmp_path), one_writer(tmp_path / "." / ""):
            pass
