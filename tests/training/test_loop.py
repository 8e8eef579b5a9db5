"""The loop: killed runs, several processes, bad numbers, and the promises about
resuming.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_task import TinyTask

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.training import TrainConfig, latest_checkpoint, load_checkpoint, train
from dalle2_edu.training.order import Order
from dalle2_edu.training.task import learning_rate

HERE = Path(__file__).parent
CONFIG = TrainConfig(steps=12, batch_size=4, warmup=5, log_every=3, save_every=4)


def run(task: TinyTask, out: Path, **options: Any) -> Path:
    return train(task, out, progress=False, device="cpu", **options)


def run_jobs(
    jobs: list[dict[str, Any]], *launcher: str
) -> subprocess.CompletedProcess[str]:
    """Run `tiny_task.py` in a process of its own, one CPU thread each."""
    command = [sys.executable, *launcher, str(HERE / "tiny_task.py"), json.dumps(jobs)]
    path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300
    )


def rows(out: Path) -> list[dict[str, str]]:
    """The log without the column that a clock fills."""
    with (out / "log.csv").open() as stream:
        return [
            {k: v for k, v in row.items() if k != "minutes"}
            for row in csv.DictReader(stream)
        ]


def same_tensors(one: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same bits."""
    a, b = load_checkpoint(one).tensors, load_checkpoint(other).tensors
    return a.keys() == b.keys() and all(
        a[part].keys() == b[part].keys()
        and all(torch.equal(a[part][name], b[part][name]) for name in a[part])
        for part in a
    )


# This run writes 9 tensor files, calls fsync 22 times and renames 4 times: moments
# before, between and after.
MOMENTS = [f"fsync:{n}" for n in range(1, 23, 2)]
MOMENTS += [
    "save_file:1",
    "save_file:5",
    "rename:1",
    "rename:2",
    "rename:3",
    "rename:4",
    "rmtree:5",
]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_killed_at_any_moment_then_resumed_is_the_unbroken_run(tmp_path: Path) -> None:
    config = dataclasses.asdict(CONFIG)
    jobs: list[dict[str, Any]] = [{"out": str(tmp_path / "unbroken"), "config": config}]
    for moment in MOMENTS:
        out = str(tmp_path / moment.replace(":", "-"))
        jobs += [
            {"out": out, "config": config, "die_at": moment},
            {"out": out, "config": config, "resume": True},
        ]
    done = run_jobs(jobs)
    assert json.loads(done.stdout) == [0] + [-9, 0] * len(MOMENTS), done.stderr
    unbroken = tmp_path / "unbroken"
    for moment in MOMENTS:
        out = tmp_path / moment.replace(":", "-")
        assert (out / "rank0.safetensors").read_bytes() == (
            unbroken / "rank0.safetensors"
        ).read_bytes(), moment
        assert same_tensors(
            out / "checkpoint/step-00000012", unbroken / "checkpoint/step-00000012"
        ), moment
        assert rows(out) == rows(unbroken), moment


def test_two_processes_agree_with_each_other_and_with_one(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    job = {
        "out": str(tmp_path / "two"),
        "config": dataclasses.asdict(CONFIG),
        "noise": 0.0,
    }
    launcher = [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--master-addr=127.0.0.1",
        f"--master-port={port}",
    ]
    done = run_jobs([job], *launcher)
    assert done.returncode == 0, done.stderr
    ranks = [
        load_file(tmp_path / f"two/rank{rank}.safetensors")["weights"]
        for rank in (0, 1)
    ]
    assert torch.equal(*ranks)
    assert latest_checkpoint(tmp_path / "two/checkpoint").state["processes"] == 2
    task = TinyTask(CONFIG, noise=0.0)
    run(task, tmp_path / "one")
    alone = torch.cat([p.detach().flatten() for p in task.model.parameters()])
    torch.testing.assert_close(ranks[0], alone, rtol=1e-5, atol=1e-6)
    assert [row["step"] for row in rows(tmp_path / "two")] == ["3", "6", "9", "12"]


def test_a_process_that_is_gone_ends_the_others_with_one_line(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    config = dataclasses.asdict(dataclasses.replace(CONFIG, save_every=12))
    job = {"out": str(tmp_path), "config": config, "die_at": "batch:3", "who": "1"}
    command = [sys.executable, str(HERE / "tiny_task.py"), json.dumps([job])]
    path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    world |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "DALLE2_EDU_PATIENCE": "10"}
    first, second = (
        subprocess.Popen(
            command,
            env={**os.environ, **world, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    )
    said = first.communicate(timeout=120)[1]
    second.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (1, -9)
    last = said.strip().splitlines()[-1]
    assert "Another process of this training is gone" in last and "--resume" in last
    assert "Traceback" not in said
    assert not (tmp_path / "checkpoint").exists()


def test_stopped_by_the_clock_then_resumed_is_the_unbroken_run(tmp_path: Path) -> None:
    unbroken = run(TinyTask(CONFIG), tmp_path / "unbroken")
    out = tmp_path / "stopped"
    assert (
        run(TinyTask(CONFIG), out, max_minutes=0).name == "step-00000001"
    )  # always one step, so it gets on
    assert (
        run(TinyTask(CONFIG), out, max_minutes=0, resume=True).name == "step-00000002"
    )
    assert same_tensors(run(TinyTask(CONFIG), out, resume=True), unbroken)
    assert rows(out) == rows(tmp_path / "unbroken")


def test_a_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Dalle2EduError, match=r"not finite at step 7.*step-00000004"):
        run(TinyTask(CONFIG, bad_step=7), tmp_path)
    checkpoint = latest_checkpoint(tmp_path / "checkpoint")
    assert checkpoint.step == 4
    assert all(
        tensor.isfinite().all() for tensor in checkpoint.tensors["model"].values()
    )


def test_a_run_is_not_overwritten_nor_mixed_with_another(tmp_path: Path) -> None:
    run(TinyTask(CONFIG), tmp_path)
    with pytest.raises(Dalle2EduError, match="already holds a run of 12 steps"):
        run(TinyTask(CONFIG), tmp_path)
    other = dataclasses.replace(CONFIG, learning_rate=0.5, seed=3)
    with pytest.raises(
        Dalle2EduError,
        match=r"learning_rate \(was 0.001, now 0.5\); config.seed \(was 0, now 3\)",
    ):
        run(TinyTask(other), tmp_path, resume=True)
    with pytest.raises(Dalle2EduError, match=r"metadata.width \(was 8, now 9\)"):
        run(TinyTask(CONFIG, width=9), tmp_path, resume=True)
    TinyTask.metadata, original = (
        lambda self: {"width": 8},
        TinyTask.metadata,
    )  # says nothing: shapes tell
    try:
        with pytest.raises(Dalle2EduError, match=r"0.bias \(was \[8\], now \[9\]\)"):
            run(TinyTask(CONFIG, width=9), tmp_path, resume=True)
    finally:
        TinyTask.metadata = original


def test_a_finished_run_may_go_on_for_longer(tmp_path: Path) -> None:
    run(TinyTask(CONFIG), tmp_path / "longer")
    longer = dataclasses.replace(CONFIG, steps=16, save_every=2)
    path = run(TinyTask(longer), tmp_path / "longer", resume=True)
    assert same_tensors(path, run(TinyTask(longer), tmp_path / "at_once"))
    cosine = dataclasses.replace(CONFIG, decay="cosine")
    run(TinyTask(cosine), tmp_path / "cosine")
    # its learning rate had come down to 0: it warms up again, and has a cosine of its
    # own
    path = run(
        TinyTask(dataclasses.replace(cosine, steps=16)),
        tmp_path / "cosine",
        resume=True,
    )
    planned = dataclasses.replace(cosine, steps=16, restarts=(12,))
    assert same_tensors(path, run(TinyTask(planned), tmp_path / "cosine_at_once"))
    assert rows(tmp_path / "cosine") == rows(tmp_path / "cosine_at_once")


def test_a_run_may_be_made_longer_until_it_cools_down(tmp_path: Path) -> None:
    short = dataclasses.replace(CONFIG, decay="cooldown", steps=20)
    longer = dataclasses.replace(short, steps=25)
    run(TinyTask(short), tmp_path / "run", max_minutes=0)  # the first step only
    path = run(TinyTask(longer), tmp_path / "run", resume=True)
    assert same_tensors(path, run(TinyTask(longer), tmp_path / "at_once"))
    with pytest.raises(
        Dalle2EduError, match="has done 25 of 25 steps and can't end at 20"
    ):
        run(TinyTask(short), tmp_path / "run", resume=True)


def test_a_lengthened_run_that_was_killed_goes_on_the_same(tmp_path: Path) -> None:
    cosine = dataclasses.replace(CONFIG, decay="cosine")
    longer = dataclasses.replace(cosine, steps=16)
    # killed at step 1, not yet cool
    run(TinyTask(cosine), tmp_path / "run", max_minutes=0)
    run(TinyTask(longer), tmp_path / "run", max_minutes=0, resume=True)
    path = run(TinyTask(longer), tmp_path / "run", resume=True)
    planned = dataclasses.replace(longer, restarts=(12,))
    assert same_tensors(path, run(TinyTask(planned), tmp_path / "at_once"))


def test_a_run_is_ended_early_by_cooling_down_now(tmp_path: Path) -> None:
    long = dataclasses.replace(CONFIG, decay="cooldown", steps=40, save_every=1)
    out = tmp_path / "run"
    for _ in range(4):
        run(TinyTask(long), out, max_minutes=0, resume=True)
    with pytest.raises(
        Dalle2EduError, match="has done 4 of 40 .*--steps 5 is the shortest"
    ):
        run(TinyTask(dataclasses.replace(long, steps=4)), out, resume=True)
    path = run(TinyTask(dataclasses.replace(long, steps=5)), out, resume=True)
    assert same_tensors(
        path, run(TinyTask(dataclasses.replace(long, steps=5)), tmp_path / "at_once")
    )


def test_log_and_samples(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    config = dataclasses.replace(CONFIG, sample_every=6)
    run(TinyTask(config), tmp_path, logger="tensorboard")
    assert [row["step"] for row in rows(tmp_path)] == ["3", "6", "9", "12"]
    assert list(rows(tmp_path)[0]) == [
        "step",
        "learning_rate",
        "loss",
        "gradient_norm",
        "size",
    ]
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == [
        "step-00000006.png",
        "step-00000012.png",
    ]
    assert list((tmp_path / "tensorboard").iterdir())


def test_bf16_trains_float32_weights_and_gives_the_model_back(tmp_path: Path) -> None:
    task = TinyTask(
        dataclasses.replace(
            CONFIG, steps=60, learning_rate=1e-2, mixed_precision="bf16"
        ),
        noise=0.0,
    )
    seen: list[torch.dtype] = []
    hook = task.model[0].register_forward_hook(
        lambda _, __, output: seen.append(output.dtype)
    )
    run(task, tmp_path)
    hook.remove()
    losses = [float(row["loss"]) for row in rows(tmp_path)]
    assert losses[-1] < 0.7 * losses[0]
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in task.model.parameters()} == {torch.float32}
    seen.clear()
    assert task.model(task.examples).dtype == torch.float32
    run(TinyTask(CONFIG), tmp_path / "float32")  # another precision in the same process


def test_without_average_or_clipping(tmp_path: Path) -> None:
    path = run(
        TinyTask(dataclasses.replace(CONFIG, ema=0.0, clip_norm=0.0, sample_every=12)),
        tmp_path,
    )
    checkpoint = load_checkpoint(path)
    assert set(checkpoint.tensors) == {"model", "optimizer"}
    assert checkpoint.weights is checkpoint.tensors["model"]


def test_every_epoch_sees_every_example_once() -> None:
    order = Order(size=10, batch_size=4, seed=1)
    seen = torch.cat([order(step) for step in range(15)])  # 60 indices, six epochs
    epochs = seen.reshape(6, 10)
    assert all(torch.equal(epoch.sort().values, torch.arange(10)) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(Order(10, 4, seed=1)(7), order(7))  # whatever was asked before
    # a batch larger than the data
    assert len(Order(size=3, batch_size=8, seed=0)(0)) == 8


def test_learning_rate() -> None:
    config = TrainConfig(steps=100, warmup=10, learning_rate=1.0)
    assert [learning_rate(step, config) for step in (0, 4, 9, 99)] == [
        0.1,
        0.5,
        1.0,
        1.0,
    ]
    cosine = dataclasses.replace(config, decay="cosine")
    assert learning_rate(50, cosine) == pytest.approx(0.5)
    assert learning_rate(99, cosine) < 0.001
    cooldown = dataclasses.replace(config, decay="cooldown")
    assert [
        learning_rate(step, cooldown) for step in (50, 80, 90, 95)
    ] == pytest.approx([1.0, 1.0, 0.5, 0.25])


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"ema": 1.0},
        {"decay": "linear"},
        {"mixed_precision": "fp16"},
        {"learning_rate": 0.0},
    ],
)
def test_a_config_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(Dalle2EduError, match=next(iter(wrong))):
        TrainConfig(**{"steps": 10, **wrong})


def test_unknown_device_and_logger(tmp_path: Path) -> None:
    with pytest.raises(Dalle2EduError, match="known: cpu"):
        train(TinyTask(CONFIG), tmp_path, device="abacus")
    with pytest.raises(Dalle2EduError, match="known: csv"):
        train(TinyTask(CONFIG), tmp_path, logger="parchment")
