"""Run a recipe, go on with it, and put its weights into the zoo.

`dalle2-edu train <recipe> --tier smoke|cpu|gpu` is `run`, `dalle2-edu zoo publish
<run>` is `publish`. A folder of a run holds

    checkpoint/     the weights, the optimizer, and `state.json`
    log.csv         the loss and other numbers
    samples/        pictures, of a model that draws
    run.json        the device and the version of the code

A resumed run takes its data, its number of steps and its first weights from its
checkpoint, unless it is told otherwise. A zoo is trained in the order of `trainings`:
what starts from another network, or reads CLIP, comes after it.

Chapters 03, 08, 12, 15, 16, 17 and 19 train with this file.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from dalle2_edu import zoo
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.files import atomic_write, read_json
from dalle2_edu.recipes import (
    autoencoders,
    codes,
    dalle1,
    diffusion,
    evaluation,
    gan,
    guided,
    inpainting,
    text2image,
    unclip,
)
from dalle2_edu.recipes.data import LICENCES, read_own
from dalle2_edu.recipes.recipe import DOMAIN_NAME, TIERS, Training
from dalle2_edu.training.checkpoints import (
    Checkpoint,
    disk_errors,
    latest_checkpoint,
    latest_state,
)
from dalle2_edu.training.lock import one_writer
from dalle2_edu.training.loop import refuse_to_overwrite, train
from dalle2_edu.training.order import seed_for
from dalle2_edu.training.processes import lost_processes, processes
from dalle2_edu.training.task import Task

# a part of the book each; in the order of training
PARTS = (
    text2image,
    unclip,
    inpainting,
    evaluation,
    gan,
    diffusion,
    autoencoders,
    codes,
    dalle1,
    guided,
)
OWN_LICENCE = "the reader's own pictures"


# --- which ones there are -------------------------------------------------------------


def trainings(tier: str = "cpu") -> dict[str, Training]:
    """Every recipe on every domain by its name, in the order of training."""
    recipes = [recipe for part in PARTS for recipe in part.RECIPES]
    every = [training for recipe in recipes for training in recipe.trainings(tier)]
    return {training.name: training for training in every}


def find(name: str, tier: str = "cpu", own: bool = False) -> Training:
    """The training of this name. own: the reader brings pictures, so the domain may be
    any word of theirs: "pets-decoder". Raises Dalle2EduError for an unknown name or
    tier, listing the known ones.
    """
    if tier not in TIERS:
        raise Dalle2EduError(f"Unknown tier {tier!r}; known: {', '.join(TIERS)}.")
    known = trainings(tier)
    if name in known:
        return known[name]
    of_any_domain = [each for each in known.values() if len(each.recipe.domains) > 1]
    for training in of_any_domain if own else []:
        domain = name.removesuffix(f"-{training.recipe.name}")
        if domain != name and DOMAIN_NAME.fullmatch(domain) and domain != "shared":
            return Training(training.recipe, domain, tier)
    raise Dalle2EduError(f"Unknown recipe {name!r}; known: {', '.join(known)}.")


# --- running --------------------------------------------------------------------------


def run(
    name: str,
    tier: str = "cpu",
    out: Path | None = None,
    *,
    resume: bool = False,
    data: str | None = None,
    start: str | None = None,
    steps: int | None = None,
    max_minutes: float | None = None,
    mixed_precision: Literal["auto", "no", "bf16"] | None = None,
    logger: Literal["csv", "tensorboard"] = "csv",
    progress: bool = True,
    fsdp: bool = False,
) -> Path:
    """Train a recipe in `out` (runs/<name>-<tier> unless given); return the last
    checkpoint's path.

    data: what to learn from in place of the recipe's own world, see `read_own`. start:
    weights to start from, see `given_weights`. steps and mixed_precision replace the
    tier's. fsdp splits the model among the processes. Raises Dalle2EduError for what
    can't be found or read, and for a folder that another process writes.
    """
    out = out or Path("runs") / f"{name}-{tier}"
    with lost_processes():
        before = so_far(out, resume)
    data = data or before.get("data")
    training = find(name, tier, own=bool(data))
    asked = {"steps": steps or before.get("steps"), "mixed_precision": mixed_precision}
    changes: dict[str, Any] = {
        key: value for key, value in asked.items() if value is not None
    }
    config = replace(training.config, **changes)

    own = read_own(data, training.recipe.picture_size, out) if data else None
    weights = given_weights(start) if start else {}
    about = {
        "recipe": name,
        "tier": tier,
        "data": data,
        "clip": clip_hash(training),
        "start": hash_of(weights) if weights else before.get("start", ""),
    }
    # the first weights are a function of the name
    torch.manual_seed(seed_for("weights", name))
    task = training.task(config, own, about)
    if weights and start:
        put_in(task, weights, start)
    checkpoint = train(task, out, resume, progress, logger, max_minutes, fsdp=fsdp)
    if processes().is_main_process:
        where = {"device": describe_device(), "commit": commit()}
        with disk_errors(str(out / "run.json")):
            atomic_write(out / "run.json", json.dumps(where, indent=2))
    return checkpoint


def so_far(out: Path, resume: bool) -> dict[str, Any]:
    """What a run that goes on was begun with: its data, steps and start; nothing for a
    new one. Refuses, before anything long is done, a folder that holds a run or is
    being written.
    """
    if processes().is_main_process and out.is_dir():
        with one_writer(out):
            pass
    refuse_to_overwrite(out, resume)
    state = latest_state(out / "checkpoint") or {}
    config, metadata = state.get("config"), state.get("metadata")
    if not isinstance(config, dict) or not isinstance(metadata, dict):
        return {}
    begun = {"steps": config.get("steps"), **metadata}
    kinds = {"steps": int, "data": str, "start": str}
    return {
        name: begun[name] for name in kinds if isinstance(begun.get(name), kinds[name])
    }


def clip_hash(training: Training) -> str:
    """The hash of the CLIP whose embeddings a part learns, "" for one that learns
    none.
    """
    return zoo.card("shared", "clip").sha256 if training.recipe.reads_clip else ""


# --- starting from given weights ------------------------------------------------------


def given_weights(start: str) -> dict[str, Tensor]:
    """The weights that `--from` names: a part of the zoo ("emoji/prior"), a run's
    folder (its averaged weights) or a safetensors file. Raises Dalle2EduError if it is
    none of them.
    """
    place = Path(start)
    if place.is_dir():
        checkpoint = latest_checkpoint(place / "checkpoint")
        if checkpoint is None:
            raise Dalle2EduError(f"{place} holds no run: it has no checkpoint.")
        return checkpoint.weights
    if place.is_file():
        return _read_file(place)
    domain, _, part = start.partition("/")
    if part and "/" not in part and not start.endswith(".safetensors"):
        return zoo.load_or_shipped(domain, part).state_dict()
    raise Dalle2EduError(
        f"There are no weights in {start}: give a part of the zoo such as emoji/prior, the"
        " folder of a run, or a safetensors file."
    )


def _read_file(file: Path) -> dict[str, Tensor]:
    try:
        return tensors_from_bytes(file.read_bytes())
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise Dalle2EduError(f"{file} is no safetensors file ({reason}).") from error


def hash_of(weights: Mapping[str, Tensor]) -> str:
    """A short name of these weights, the same wherever they come from."""
    copies = {
        name: weights[name].detach().cpu().float().contiguous() for name in weights
    }
    separate = {name: tensor.clone() for name, tensor in copies.items()}
    return sha256(tensors_to_bytes(separate)).hexdigest()[:16]


def put_in(task: Task, weights: dict[str, Tensor], start: str) -> None:
    """Let a task start from given weights; what the model measures of its data is
    measured again. Raises Dalle2EduError for weights of another model.
    """
    zoo.check_fit(task.model, weights, start)
    task.model.load_state_dict(weights)
    task.measure_data()


# --- publishing -----------------------------------------------------------------------


def publish(
    run_dir: Path, notes: str = "", metrics: Mapping[str, float] | None = None
) -> Path:
    """Put a run's averaged weights into the zoo with a card; return the weights'
    path.
    """
    if not run_dir.is_dir():
        raise Dalle2EduError(
            f"There is no run in {run_dir}; train one first: dalle2-edu train <recipe>."
        )
    with one_writer(run_dir):
        checkpoint = latest_checkpoint(run_dir / "checkpoint")
    if checkpoint is None:
        raise Dalle2EduError(
            f"{run_dir} holds no run: train there first, with `dalle2-edu train`."
        )
    training, card, module = _as_published(checkpoint, run_dir)
    card = replace(
        card, notes=notes, metrics={**card.metrics, **rounded(metrics or {})}
    )
    return zoo.save(training.domain, training.part, module, card)


def _as_published(
    checkpoint: Checkpoint, run_dir: Path
) -> tuple[Training, zoo.Card, nn.Module]:
    """What a checkpoint is of, its card, and the model with its averaged weights."""
    state = checkpoint.state
    try:
        about = state["metadata"]
        training = find(about["recipe"], about["tier"], own=bool(about["data"]))
        card = zoo.Card(
            recipe=training.name,
            tier=training.tier,
            data_licence=OWN_LICENCE if about["data"] else LICENCES[training.domain],
            clip=about["clip"],
            minutes=round(float(state["minutes"]), 1),
            steps=checkpoint.step,
            metrics=last_loss(state["numbers"]),
            date=date.today().isoformat(),
            **trained_where(run_dir),
        )
        model = about["model"]
    except (KeyError, TypeError, ValueError) as error:
        file = checkpoint.path / "state.json"
        raise Dalle2EduError(f"{file} is not of a recipe's run ({error!r}).") from error
    module = zoo.build(
        training.recipe.model, model, str(checkpoint.path / "state.json")
    )
    zoo.check_fit(module, checkpoint.weights, str(checkpoint.path))
    module.load_state_dict(checkpoint.weights)
    return training, card, module


def last_loss(numbers: dict[str, float]) -> dict[str, float]:
    """A run that was stopped before it first wrote its log has none."""
    return rounded({"training loss": float(numbers["loss"])}) if numbers else {}


def rounded(numbers: Mapping[str, float]) -> dict[str, float]:
    """Numbers as they stand on a card."""
    return {name: round(value, 4) for name, value in numbers.items()}


def trained_where(run_dir: Path) -> dict[str, Any]:
    """The device and the commit of a run; a killed run has not said them."""
    file = run_dir / "run.json"
    if not file.exists():
        return {}
    said = read_json(file)
    if not isinstance(said, dict):
        raise Dalle2EduError(f"{file} is damaged: remove it, and publish again.")
    return {key: str(said[key]) for key in ("device", "commit") if key in said}


def describe_device() -> str:
    """What a card says of the machine: the GPU's name, or the number of CPU threads."""
    if torch.cuda.is_available():
        return f"one {torch.cuda.get_device_name()} GPU"
    return f"{torch.get_num_threads()} CPU thread(s)"


def commit() -> str:
    """The commit of the code that runs, with a + if files were changed since; ""
    outside a git checkout.
    """
    here = str(Path(__file__).parent)
    asked = [
        "git",
        "-C",
        here,
        "describe",
        "--always",
        "--dirty=+",
        "--abbrev=12",
        "--match=",
    ]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    except OSError:  # no git on this machine
        return ""
    return answer.stdout.strip()
