"""One training loop for every model of the book.

Draw a batch, take the gradient, clip it, let Adam step, average the weights (`run.py`),
write down how it goes; again, until all steps are done. The `Task` says what is
learned, the loop does the rest, on one CPU, one GPU or many (`accelerate`).

The one idea worth a chapter is **randomness as a function** (`order.py`). Every random
number of a step, and the learning rate, are functions of the seed and the step. What a
task remembers from one step to the next, if anything, is saved with the weights. So a
checkpoint needs no random state. On the CPU a run that was killed and resumed ends with
the same bits as one that was never interrupted (given as many threads), and two
processes see the same global batches as one.

**Longer.** A resumed run may have more steps than it was begun with:

    before the decay has begun       nothing done so far depends on the number of steps
    after that                       a restart: the rate warms up again, then decays again

**Shorter.** A run with `decay="cooldown"` that is to end now is resumed with 5/4 of the
steps that it has done: the last fifth of them is then its cool-down.

Several processes, on CPUs or GPUs:    torchrun --nproc-per-node 2 your_script.py
On GPUs as well:                       accelerate launch --num_processes 2 your_script.py
A model too large for one GPU:         accelerate launch --use_fsdp ...; see `sharding.py`

Chapter 08 reads this file; chapter 24 launches it on many GPUs.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from tqdm.auto import tqdm

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.training.checkpoints import (
    Checkpoint,
    latest_checkpoint,
    latest_state,
    remove_unfinished,
)
from dalle2_edu.training.lock import one_writer
from dalle2_edu.training.logs import LOGGERS, Logs
from dalle2_edu.training.processes import lost_processes, make_accelerator, wants_fsdp
from dalle2_edu.training.run import Run
from dalle2_edu.training.task import COOLDOWN, Task, TrainConfig

# --- is it the same run? --------------------------------------------------------------

# What may differ when a run goes on: how often it saves and samples never matters. The
# precision changes bits and no meaning; a run may come to a machine that has no bf16.
FREE = ("config.save_every", "config.sample_every", "config.mixed_precision")


def identity(task: Task, config: TrainConfig) -> dict[str, Any]:
    """What makes this run this run, as JSON gives it back."""
    fields = {
        "task": task.name,
        "size": task.size,
        "config": dataclasses.asdict(config),
    }
    whole = {**fields, "metadata": task.metadata()}
    # as `state.json` holds it: tuples become lists
    return json.loads(json.dumps(whole))


def find_start(
    task: Task, out: Path, resume: bool
) -> tuple[TrainConfig, Checkpoint | None]:
    """How to train, and the checkpoint to go on from, None to start anew.

    Raises `Dalle2EduError` if the folder holds a run and `resume` is False, or if it
    holds another run.
    """
    refuse_to_overwrite(out, resume)
    checkpoint = latest_checkpoint(out / "checkpoint")
    if checkpoint is None:
        return task.config, None
    config = continued(task.config, checkpoint, out)
    # what `continued` allows is no difference: the config is already the longer run's
    different = _differences(checkpoint.state, identity(task, config))
    different += _shape_differences(checkpoint, task.model)
    if different:
        raise Dalle2EduError(
            f"{checkpoint.path} is of another run; it differs in {'; '.join(different[:5])}."
        )
    return config, checkpoint


def refuse_to_overwrite(out: Path, resume: bool) -> None:
    """Raise `Dalle2EduError` if the folder holds a run that was not asked to go on."""
    state = None if resume else latest_state(out / "checkpoint")
    if state:
        raise Dalle2EduError(
            f"{out} already holds a run of {state['step']} steps: add --resume (with --steps to"
            " make it longer), or choose another folder."
        )


def continued(config: TrainConfig, checkpoint: Checkpoint, out: Path) -> TrainConfig:
    """The config of a run that goes on, which may be longer or shorter than it was."""
    old = _old_config(checkpoint)
    # past restarts bend the learning rate: they belong to the run
    config = dataclasses.replace(config, restarts=old.restarts)
    done = checkpoint.step
    if config.steps == old.steps or _rates_agree(old, config.steps, done):
        return config
    # the old schedule has begun to fall: keep what was done, and begin a new one
    if config.steps > old.steps:
        return dataclasses.replace(config, restarts=(*old.restarts, old.steps))
    raise Dalle2EduError(
        f"{out} has done {done} of {old.steps} steps and can't end at {config.steps}:"
        f" {_earliest_end(old, done)}, or choose another folder."
    )


def _old_config(checkpoint: Checkpoint) -> TrainConfig:
    """How the checkpoint's run was trained."""
    # an older version may hold others
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    try:
        stored = checkpoint.state["config"]
        fields = {key: value for key, value in stored.items() if key in known}
        fields["restarts"] = tuple(fields.get("restarts", ()))  # JSON has lists only
        return TrainConfig(**fields)
    except (KeyError, TypeError, AttributeError, Dalle2EduError) as error:
        file = checkpoint.path / "state.json"
        raise Dalle2EduError(f"{file} holds no config of a run ({error}).") from error


def _rates_agree(old: TrainConfig, steps: int, done: int) -> bool:
    """Whether the steps that are done had the learning rates of a run of `steps`
    steps.
    """
    # what was done can't be undone
    if steps < done:
        return False
    # no schedule that could fall
    if old.decay == "constant":
        return True
    began = old.last_restart  # the step of the last warm-up
    shorter = min(old.steps, steps) - began
    # a cool-down begins at a share of the run: until then, both had the full rate
    return old.decay == "cooldown" and done - began <= (1 - COOLDOWN) * shorter


def _earliest_end(old: TrainConfig, done: int) -> str:
    """What to do instead of ending a run too early."""
    began = old.last_restart
    shortest = (done - began) / (1 - COOLDOWN)  # its cool-down would begin now
    end = max(done, began + math.ceil(shortest))
    if _rates_agree(old, end, done):
        return f"--steps {end} is the shortest"
    return (
        f"its learning rate is on its way to 0 at step {old.steps}; leave --steps out"
    )


def _differences(
    old: dict[str, Any], new: dict[str, Any], prefix: str = ""
) -> list[str]:
    """What differs, as "config.seed (was 0, now 1)". What does not touch the training
    may differ.
    """
    found = []
    for key, value in new.items():
        name = f"{prefix}{key}"
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            # also what stands in the old one alone
            missing = dict.fromkeys(before.keys() - value.keys())
            found += _differences(before, {**value, **missing}, f"{name}.")
        elif name not in FREE and not _equal(before, value):
            found.append(f"{name} (was {before}, now {value})")
    # `steps` and `restarts` are here by right: `continued` has settled them
    settled = ("config.steps ", "config.restarts ")
    return [line for line in found if not line.startswith(settled)]


def _equal(before: Any, value: Any) -> bool:
    # an older version did not write what has since got an empty default
    return before == value or (before is None and value in ("", [], {}))


def _shape_differences(checkpoint: Checkpoint, model: nn.Module) -> list[str]:
    tensors = checkpoint.tensors.get("model", {})
    old = {name: list(tensor.shape) for name, tensor in tensors.items()}
    new = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    every = sorted(old.keys() | new.keys())
    names = [name for name in every if old.get(name) != new.get(name)]
    return [f"{name} (was {old.get(name)}, now {new.get(name)})" for name in names]


# --- the loop -------------------------------------------------------------------------


def train(
    task: Task,
    out: Path,
    resume: bool = False,
    progress: bool = True,
    logger: Literal["csv", "tensorboard"] = "csv",
    max_minutes: float | None = None,
    device: str | None = None,
    fsdp: bool = False,
) -> Path:
    """Train `task` in the folder `out`; return the path of the last checkpoint.

    `fsdp` splits the model among the processes (`sharding.py`); its weights are then
    whole in the checkpoint only. `resume` goes on from the folder's last checkpoint, or
    starts if there is none. `max_minutes` stops early with a checkpoint, whose
    `state.json` says how many steps were done. Afterwards `task.model` holds the
    trained weights (not the average). Under `accelerate launch` or `torchrun`, call it
    in every process, with a shared `out`.

    Raises `Dalle2EduError`, with the last good checkpoint intact, for a loss that is
    not finite, a full disk, a folder that holds another run or is written by another
    process, a damaged checkpoint with none before it, a process that is gone.
    """
    if logger not in LOGGERS:
        raise Dalle2EduError(f"Unknown logger {logger!r}; known: {', '.join(LOGGERS)}.")
    out = Path(out)
    sharded = fsdp or wants_fsdp()
    # to know the precision before the models are made
    state = latest_state(out / "checkpoint") or {}
    with lost_processes():
        accelerator = make_accelerator(task.config, device, state.get("precision"))
        # the first process alone writes
        lock = one_writer(out) if accelerator.is_main_process else nullcontext()
        with lock:
            config, start = find_start(task, out, resume)
            accelerator.wait_for_everyone()  # everyone has read before the first writes
            run = Run(task, config, accelerator, sharded)
            if start:
                run.restore(start)
            return _logged(run, out, logger, progress, max_minutes)


def _logged(
    run: Run, out: Path, logger: str, progress: bool, max_minutes: float | None
) -> Path:
    """Train with a log; give the task its bare model back, however it ends."""
    logs = None
    if run.accelerator.is_main_process:
        remove_unfinished(out / "checkpoint")  # of a run that was killed
        logs = Logs(out, logger, run.step)
    try:
        return _run_to_the_end(run, out, logs, progress, _clock(run, max_minutes))
    finally:
        if logs:
            logs.close()
        # the bare model, without the wrappers of accelerate
        run.accelerator.unwrap_model(run.model, keep_fp32_wrapper=False)


def _clock(run: Run, max_minutes: float | None) -> Callable[[], bool]:
    """A function that keeps `run.minutes` and says whether the time is up, alike in
    every process.
    """
    began = time.monotonic()
    before = run.minutes  # of earlier sessions, when resumed

    def time_is_up() -> bool:
        passed = (time.monotonic() - began) / 60
        run.minutes = before + passed
        if max_minutes is None:
            return False
        # one process's clock is enough to stop all: they must stop at the same step
        up = torch.tensor([float(passed >= max_minutes)], device=run.accelerator.device)
        return bool(run.accelerator.reduce(up, reduction="sum").item() > 0)

    return time_is_up


def _run_to_the_end(
    run: Run,
    out: Path,
    logs: Logs | None,
    progress: bool,
    time_is_up: Callable[[], bool],
) -> Path:
    config = run.config
    folder = out / "checkpoint"
    about = identity(run.task, config)
    main = run.accelerator.is_main_process
    writes = main or run.fsdp  # of a sharded model, every process has a part
    # Looking at the numbers makes a GPU wait, and processes wait for each other; alone
    # on a CPU it is free.
    alone = run.accelerator.num_processes == 1 and run.accelerator.device.type == "cpu"
    bar = tqdm(
        total=config.steps,
        initial=run.step,
        desc=run.task.name,
        disable=not (progress and main),
    )
    stop = False
    with bar:
        while run.step < config.steps and not stop:
            run.update()
            bar.update()
            if alone or run.due(config.log_every) or run.due(config.save_every):
                # no checkpoint of a model that is broken
                run.check_finite(folder)
                stop = time_is_up()
            if run.due(config.log_every):
                means = run.log(logs)
                bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()})
            if writes and config.sample_every and run.due(config.sample_every):
                run.sample(out / "samples" / f"step-{run.step:08d}.png")
            if writes and (stop or run.due(config.save_every)):
                run.save(folder, about)
    # the others must not end before the last checkpoint is written
    run.accelerator.wait_for_everyone()
    return folder / f"step-{run.step:08d}"
