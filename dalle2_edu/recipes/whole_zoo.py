"""A whole zoo: every model trained in the order in which one needs the other.

    needs      CLIP before what reads its embeddings, a network before its fine-tuning
    at once    several models side by side, each a process with one thread of its own
    estimate   one step of each model is timed, and multiplied by its steps

One network has little work for two threads: they wait for each other at every layer.
Two networks with one thread each do not.

The zoo that chapter 01 loads is made with this file.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from dalle2_edu import zoo
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.recipes import runs
from dalle2_edu.recipes.recipe import Training
from dalle2_edu.training.processes import make_accelerator
from dalle2_edu.training.run import Run

# on a CPU a step's time grows with its batch, so a part of it is timed
PART_OF_A_BATCH = 4


@dataclass(frozen=True)
class Plan:
    """Which zoo to train, and where."""

    tier: str
    runs: Path  # a folder for each run
    into: Path  # the zoo to fill
    precision: Literal["auto", "no", "bf16"] | None = None


def train_all(plan: Plan, at_once: int = 1) -> None:
    """Train and publish every recipe; what was begun before goes on."""
    if at_once < 1:
        raise Dalle2EduError(f"--at-once is {at_once}; it must be at least 1.")
    with zoo.at(plan.into):
        if at_once == 1:
            train_in_turn(plan)
        else:
            train_side_by_side(plan, at_once)


def train_in_turn(plan: Plan) -> None:
    """One recipe after the other, in this process."""
    names = list(runs.trainings(plan.tier))
    for place, name in enumerate(names, start=1):
        print(f"[{place}/{len(names)}] {name}", flush=True)
        out = plan.runs / name
        resume = out.exists()
        runs.run(name, plan.tier, out, resume=resume, mixed_precision=plan.precision)
        runs.publish(out)


# --- side by side ---------------------------------------------------------------------


def train_side_by_side(plan: Plan, at_once: int) -> None:
    """Up to `at_once` recipes at a time; each begins when all that it needs is
    published.
    """
    waiting = list(runs.trainings(plan.tier).values())
    under_way: dict[str, tuple[Training, subprocess.Popen[bytes]]] = {}
    to_come = {(training.domain, training.part) for training in waiting}
    try:
        while waiting or under_way:
            ready = [each for each in waiting if to_come.isdisjoint(each.needs)]
            for training in ready[: at_once - len(under_way)]:
                waiting.remove(training)
                under_way[training.name] = training, begin(training, plan)
            time.sleep(0.2)
            for name, (training, process) in list(under_way.items()):
                if process.poll() is not None:
                    del under_way[name]
                    finish(training, process, plan)
                    to_come.discard((training.domain, training.part))
    finally:
        for _, process in under_way.values():
            process.terminate()  # each goes on from its last checkpoint next time


def begin(training: Training, plan: Plan) -> subprocess.Popen[bytes]:
    """Start one training in a process with one thread; its words go into a file."""
    out = plan.runs / training.name
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "dalle2_edu.cli", "--zoo", str(plan.into), "train"]
    command += [training.name, "--tier", plan.tier, "--out", str(out), "--resume"]
    if plan.precision:
        command += ["--mixed-precision", plan.precision]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    print(f"begins  {training.name}", flush=True)
    with (out / "said.txt").open("ab") as said:
        return subprocess.Popen(command, stdout=said, stderr=said, env=environment)


def finish(training: Training, process: subprocess.Popen[bytes], plan: Plan) -> None:
    """Publish what a process has trained; raise Dalle2EduError if it failed."""
    out = plan.runs / training.name
    if process.returncode != 0:
        lines = (
            (out / "said.txt").read_text(encoding="utf-8", errors="replace").split("\n")
        )
        last = next((line for line in reversed(lines) if line.strip()), "nothing")
        raise Dalle2EduError(f"{training.name} stopped: {last.strip()[-300:]}")
    runs.publish(out)
    print(f"done    {training.name}", flush=True)


# --- how long will it take? -----------------------------------------------------------


def print_estimate(plan: Plan, at_once: int = 1) -> None:
    """Say how long each training and all of them will take on this machine."""
    threads = torch.get_num_threads()
    if at_once > 1:
        torch.set_num_threads(1)
    total = 0.0
    try:
        for name, training in runs.trainings(plan.tier).items():
            hours = hours_left(training, plan)
            total += hours
            print(f"{name:23}{60 * hours:6.0f} min", flush=True)
    finally:
        torch.set_num_threads(threads)
    print(
        f"About {total / at_once:.1f} hours in all, from one timed step each.",
        flush=True,
    )


def hours_left(training: Training, plan: Plan) -> float:
    """How long the steps that a training has still to do will take."""
    state = runs.latest_state(plan.runs / training.name / "checkpoint")
    left = training.config.steps - (state["step"] if state else 0)
    return max(0, left) * seconds_a_step(training, plan) / 3600


def seconds_a_step(training: Training, plan: Plan) -> float:
    """The time of one update of a training, on few pictures and from the book's zoo."""
    part = 1 if torch.cuda.is_available() else PART_OF_A_BATCH
    config = replace(
        training.config, batch_size=max(1, training.config.batch_size // part)
    )
    config = replace(config, mixed_precision=plan.precision or config.mixed_precision)
    with zoo.at(zoo.SHIPPED):
        task = replace(training, tier="smoke").task(config)
    run = Run(task, config, make_accelerator(config, None))
    run.update()  # the first one sets things up
    began = time.perf_counter()
    run.update()
    float(run.meter.sums[0])  # waits for a GPU
    seconds = time.perf_counter() - began
    run.accelerator.unwrap_model(run.model, keep_fp32_wrapper=False)
    return part * seconds
