"""The recipes: which model learns from what, how large, for how long.

`dalle2-edu train <recipe> --tier smoke|cpu|gpu` runs one. The order in which a whole zoo is
trained is the order of `RECIPES`: first CLIP, since the priors and the decoders read its
embeddings, and the decoder and the upsamplers before their fine-tuning; the judge and the
oracle can be trained at any time.

    smoke  seconds; shows that the code runs, not what it can do
    cpu    two cores; what the shipped zoo was trained with unless a card says otherwise
    gpu    one GPU, from nothing, longer and on more pictures; sized for about ten minutes a recipe, not yet measured

Chapters 08, 09, 12, 15, 16, 17 and 19 train with these recipes.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dalle2_edu import zoo
from dalle2_edu.config import from_dict
from dalle2_edu.data import emoji, shapes, shards
from dalle2_edu.data.pairs import Pairs
from dalle2_edu.data.sources import is_shards, tar_files
from dalle2_edu.data.stream import Stream
from dalle2_edu.data.text import default_tokenizer
from dalle2_edu.diffusion.ddpm import DDPM, IDDPM, DdpmConfig
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.text2image.clip import ClipConfig
from dalle2_edu.training.checkpoints import latest_checkpoint
from dalle2_edu.training.ddpm_task import DdpmTask
from dalle2_edu.training.inpaint_task import InpaintTask, InpaintUpsamplerTask
from dalle2_edu.training.loop import Task, TrainConfig, processes, seed_for, train
from dalle2_edu.training.oracle_task import OracleTask
from dalle2_edu.training.prior_tasks import ARPriorTask, RegressionTask
from dalle2_edu.training.streaming import Embedded, Streamed
from dalle2_edu.training.tasks import (
    ClipTask,
    Data,
    DecoderTask,
    PriorTask,
    UpsamplerTask,
    encode,
    mix,
    repeats,
)
from dalle2_edu.unclip.ar_prior import PCA_ERROR, ARPriorConfig
from dalle2_edu.unclip.decoder import DecoderConfig
from dalle2_edu.unclip.latents import fit_pca
from dalle2_edu.unclip.prior import PriorConfig
from dalle2_edu.unclip.upsampler import UpsamplerConfig
from dalle2_edu.zoo import check_same_clip

TIERS = ("smoke", "cpu", "gpu")
Own = (
    Pairs | Stream | Path | None
)  # the reader's data; a path is that of a folder of embeddings
CLIP_SIZE = 64  # pictures for CLIP, and for what learns from CLIP's embeddings
SCENES = {
    "smoke": 64,
    "cpu": 60_000,
    "gpu": 200_000,
}  # rendered scenes a recipe keeps in memory
LARGE_SCENES = {
    "smoke": 16,
    "cpu": 6_000,
    "gpu": 30_000,
}  # the same at 128 x 128, for the upsamplers
LICENCES = {
    "emoji": "Noto Color Emoji, OFL 1.1 / Apache 2.0 (dalle2_edu/data/emoji.LICENSE.txt)",
    "shapes": "rendered by this package, MIT",
}
LICENCES["shared"] = f"{LICENCES['shapes']}; {LICENCES['emoji']}"


@dataclass(frozen=True)
class Recipe:
    """How to train one part of the zoo. `task(tier, own)` builds what the loop trains; own is
    None or the reader's data.
    """

    domain: str
    part: str
    teaches: str  # one line of help
    task: Callable[[str, Own], Task]


# --- data -------------------------------------------------------------------------------------


def domain_pairs(domain: str, tier: str, size: int) -> Pairs:
    """The pictures and captions of a domain at `size`, as many as the tier keeps."""
    scenes = (SCENES if size <= CLIP_SIZE else LARGE_SCENES)[tier]
    if domain == "shapes":
        return shapes.pairs(scenes, size)
    drawn = shards.pairs(
        emoji.shipped(emoji.SHARD), size, limit=scenes if tier == "smoke" else None
    )
    if domain == "emoji":
        return evened(drawn)
    rendered = shapes.pairs(scenes, size)
    return mix(
        [(rendered, 1), (drawn, repeats(len(drawn), len(rendered)))]
    )  # as many of the one as of the other


def evened(drawn: Pairs) -> Pairs:
    """The emoji, with all but the skin-tone variants three times.

    Half of the set are variants of a few hundred people and hands; without this a rocket would
    be seen once while a waving hand is seen six times."""
    toned = torch.tensor(["skin tone" in captions[0] for captions in drawn.captions])  # (N,)
    return mix([(drawn, 1), (subset(drawn, ~toned), 2)])


def subset(pairs: Pairs, chosen: torch.Tensor) -> Pairs:
    """The pairs where `chosen`, bool (N,), is True."""
    return Pairs(
        pairs.images[chosen], [pairs.captions[i] for i in chosen.nonzero()[:, 0].tolist()]
    )


def encoded(domain: str, tier: str, own: Own, image_size: int) -> Data:
    """The domain's pairs (or the reader's data) as the zoo's CLIP sees them."""
    clip, tokenizer = zoo.load("shared", "clip", own_device()), default_tokenizer()
    if isinstance(own, Stream):
        return Streamed(own, image_size, clip, tokenizer)
    if isinstance(own, Path):
        return Embedded(own, image_size, clip, zoo.cards()["shared", "clip"].sha256, tokenizer)
    return encode(own or domain_pairs(domain, tier, CLIP_SIZE), image_size, clip, tokenizer)


def own_device() -> str:
    """Where this process computes: its own GPU, if there are any."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def read_own(source: str, recipe: Recipe, out: Path) -> Own:
    """The reader's data: several tar shards are streamed; one, or a folder of pictures, is read
    into memory; a folder that `dalle2-edu data embed` wrote holds embeddings, and its path is
    given back.
    """
    size = 128 if "upsampler" in recipe.part else CLIP_SIZE
    if source and any(Path(source).glob("*.safetensors")):
        if recipe.part not in zoo.READS_CLIP:
            raise Dalle2EduError(
                f"{source} holds embeddings, and {recipe.part} learns from pictures: give the"
                " shards."
            )
        return Path(source)
    if is_shards(source) and len(tar_files(source)) > 1:
        state = processes()
        with state.main_process_first():  # it counts, the others read what it wrote
            return Stream(source, size, out / "shards.json", progress=state.is_main_process)
    pairs = shards.pairs(source, size)
    if pairs.skipped:
        print(
            f"Left out, as they could not be read: {pairs.skipped} of"
            f" {pairs.skipped + len(pairs)} pictures."
        )
    return pairs


def pictures(own: Own, otherwise: Callable[[], Pairs]) -> Tensor | Stream:
    """The pictures of the reader's data, or of what there is otherwise."""
    assert not isinstance(own, Path), "`read_own` gives embeddings to what reads CLIP only"
    return own if isinstance(own, Stream) else (own or otherwise()).images


# --- one function a kind of network -----------------------------------------------------------


def schedule(tier: str, cpu: TrainConfig, gpu: TrainConfig) -> TrainConfig:
    """The tier's way of training; smoke is the cpu tier's, three steps long."""
    smoke = replace(
        cpu, steps=3, batch_size=4, warmup=1, log_every=1, save_every=2, sample_every=3
    )
    return {"smoke": smoke, "cpu": cpu, "gpu": gpu}[tier]


def clip_task(name: str, model: ClipConfig, seed: int, steps: int, tier: str, own: Own) -> Task:
    """A CLIP on both worlds, `steps` updates on the cpu tier.

    Adam's second beta and the strong weight decay are CLIP's own (arXiv 2103.00020).
    """
    cpu = TrainConfig(
        steps,
        256,
        1e-3,
        warmup=100,
        decay="cosine",
        weight_decay=0.1,
        betas=(0.9, 0.98),
        mixed_precision="bf16",
    )
    cpu = replace(cpu, seed=seed, save_every=100, log_every=20)
    gpu = replace(cpu, steps=4000, batch_size=1024, save_every=1000)
    tokenizer = default_tokenizer()
    model = replace(
        model, vocab_size=tokenizer.vocab_size, context_length=tokenizer.context_length
    )
    assert not isinstance(own, Path), "`read_own` gives embeddings to what reads CLIP only"
    return ClipTask(
        name,
        own or domain_pairs("both", tier, CLIP_SIZE),
        tokenizer,
        schedule(tier, cpu, gpu),
        model,
    )


def prior_schedule(tier: str) -> TrainConfig:
    """How the diffusion prior and the regression learn; Adam's second beta from the paper's
    Table 3.
    """
    cpu = TrainConfig(
        2000, 128, 1e-3, decay="cosine", weight_decay=0.06, betas=(0.9, 0.96), adam_eps=1e-6
    )
    cpu = replace(cpu, ema=0.998, mixed_precision="bf16", save_every=200)
    return schedule(
        tier, cpu, replace(cpu, steps=10_000, batch_size=1024, ema=0.9995, save_every=2000)
    )


def prior_config(data: Data) -> PriorConfig:
    """A prior that fits what CLIP says of the data."""
    clip_dim, (_, context, text_width) = data.null.text_emb.shape[1], data.null.text_enc.shape
    return PriorConfig(clip_dim, text_width, context, emb_scale=clip_dim**0.5)


def prior_task(domain: str, tier: str, own: Own) -> Task:
    """The diffusion prior of one domain."""
    data = encoded(domain, tier, own, image_size=32)
    return PriorTask(f"{domain}-prior", data, prior_schedule(tier), prior_config(data))


def regression_task(domain: str, tier: str, own: Own) -> Task:
    """The regression from text to image embedding, of the diffusion prior's size."""
    data = encoded(domain, tier, own, image_size=32)
    return RegressionTask(
        f"{domain}-regression", data, prior_schedule(tier), prior_config(data)
    )


def ar_prior_task(domain: str, tier: str, own: Own) -> Task:
    """The autoregressive prior of one domain, as wide and deep as the diffusion prior; its rank
    is what the data needs.

    Adam's betas, its epsilon and the weight decay from Table 3. A batch has fewer pictures than
    the diffusion prior's: a picture is a sentence here, and every code of it is an example."""
    cpu = TrainConfig(
        3000, 64, 1e-3, decay="cosine", weight_decay=0.04, betas=(0.9, 0.91), adam_eps=1e-10
    )
    cpu = replace(cpu, ema=0.998, mixed_precision="bf16", save_every=200)
    gpu = replace(cpu, steps=15_000, batch_size=512, ema=0.9995, save_every=3000)
    data = encoded(domain, tier, own, image_size=32)
    pca, base = fit_pca(data.measured()[0]), prior_config(data)
    rank = pca.rank_for(PCA_ERROR)
    print(
        f"PCA: {rank} of {base.clip_dim} dimensions keep all but {pca.error()[rank]:.2%} of the"
        " variance."
    )
    model = ARPriorConfig(
        base.clip_dim, base.text_width, base.context_length, rank, emb_scale=base.emb_scale
    )
    return ARPriorTask(f"{domain}-ar-prior", data, schedule(tier, cpu, gpu), model, pca)


def decoder_task(domain: str, tier: str, own: Own) -> Task:
    """The decoder of one domain at 32 x 32."""
    cpu = TrainConfig(
        8000, 64, 1e-3, decay="cooldown", weight_decay=0.0, ema=0.998, mixed_precision="bf16"
    )
    cpu = replace(cpu, save_every=200, sample_every=1000)
    gpu = replace(
        cpu, steps=15_000, batch_size=512, ema=0.9995, save_every=3000, sample_every=3000
    )
    data = encoded(domain, tier, own, image_size=32)
    clip_dim, text_width = data.null.text_emb.shape[1], data.null.text_enc.shape[2]
    model = DecoderConfig(clip_dim, text_width, emb_scale=clip_dim**0.5)
    return DecoderTask(f"{domain}-decoder", data, schedule(tier, cpu, gpu), model)


def inpaint_task(domain: str, tier: str, own: Own) -> Task:
    """The zoo's decoder of one domain, taught to inpaint: it can draw already, so it needs
    fewer steps.
    """
    cpu = TrainConfig(
        2600, 64, 1e-3, decay="cosine", weight_decay=0.0, ema=0.998, mixed_precision="bf16"
    )
    cpu = replace(cpu, save_every=200, sample_every=500)
    gpu = replace(
        cpu, steps=5000, batch_size=512, ema=0.9995, save_every=1000, sample_every=1000
    )
    check_same_clip(domain, ("decoder",))
    decoder = zoo.load(domain, "decoder")
    data = encoded(domain, tier, own, image_size=decoder.config.unet.image_size)
    return InpaintTask(f"{domain}-inpaint", data, schedule(tier, cpu, gpu), decoder)


DAMAGE = {64: "blur", 128: "bsr"}  # what each upsampler's small picture suffers in training


def upsampler_task(size: int, tier: str, own: Own) -> Task:
    """The upsampler to `size`: 64 (cosine, blurred condition) or 128 (linear, BSR-style
    condition).
    """
    cpu = TrainConfig(
        10_000 if size == 64 else 5000,
        64,
        1e-3,
        decay="cosine",
        ema=0.998,
        mixed_precision="bf16",
    )
    cpu = replace(cpu, save_every=200, sample_every=1000)
    gpu = replace(
        cpu, steps=10_000, batch_size=512, ema=0.9995, save_every=2500, sample_every=5000
    )
    unet = replace(UpsamplerConfig().unet, image_size=size)
    kind: Literal["cosine", "linear"] = "cosine" if size == 64 else "linear"
    images = pictures(own, lambda: domain_pairs("both", tier, 128))
    model = UpsamplerConfig(kind, unet)
    return UpsamplerTask(
        f"upsampler-{size}", images, schedule(tier, cpu, gpu), model, DAMAGE[size]
    )


def inpaint_upsampler_task(size: int, tier: str, own: Own) -> Task:
    """The zoo's upsampler to `size`, taught to inpaint."""
    cpu = TrainConfig(3000, 64, 1e-3, decay="cosine", ema=0.998, mixed_precision="bf16")
    cpu = replace(cpu, save_every=200, sample_every=1000)
    gpu = replace(
        cpu, steps=5000, batch_size=512, ema=0.9995, save_every=2500, sample_every=2500
    )
    images = pictures(own, lambda: domain_pairs("both", tier, 128))
    trained = zoo.load("shared", f"upsampler_{size}")
    return InpaintUpsamplerTask(
        f"inpaint-upsampler-{size}", images, schedule(tier, cpu, gpu), trained, DAMAGE[size]
    )


def oracle_task(tier: str, own: Own) -> Task:
    """The classifier that knows what is in a rendered scene. It learns from the renderer's
    truth, so it takes no pictures.
    """
    if own is not None:
        raise Dalle2EduError(
            "The oracle learns from the renderer's truth, which pictures of your own do not"
            " have."
        )
    cpu = TrainConfig(3000, 128, 2e-3, decay="cosine", mixed_precision="bf16", save_every=200)
    return OracleTask(schedule(tier, cpu, replace(cpu, steps=8000, batch_size=256)))


def ddpm_task(name: str, model: DdpmConfig, tier: str, own: Own) -> Task:
    """The unconditional model of chapters 08 and 09, on single objects at 16 x 16.

    DDPM's learning rate is constant and its run hundreds of times longer; five thousand steps
    want a high rate that falls."""
    cpu = TrainConfig(5000, 64, 1e-3, decay="cosine", ema=0.998, mixed_precision="bf16")
    cpu = replace(cpu, save_every=250, sample_every=1000)
    gpu = replace(
        cpu, steps=20_000, batch_size=256, ema=0.9995, save_every=5000, sample_every=5000
    )
    side = model.unet.image_size
    if own is not None:
        return DdpmTask(
            name,
            pictures(own, lambda: domain_pairs("shapes", tier, side)),
            schedule(tier, cpu, gpu),
            model,
        )
    images, labels = shapes.single_objects(SCENES[tier], side)
    return DdpmTask(name, images, schedule(tier, cpu, gpu), model, labels)


CLIP = ClipConfig(embed_dim=256, thumbnail=16)
# A vision transformer where the generator's CLIP has a ResNet: it should not share that one's
# blind spots.
JUDGE = ClipConfig(
    vision_width=96,
    vision_layers=4,
    vision_head_width=32,
    text_width=96,
    text_layers=3,
    embed_dim=64,
)

RECIPES: dict[str, Recipe] = {
    "clip": Recipe(
        "shared",
        "clip",
        "CLIP on both worlds",
        lambda tier, own: clip_task("clip", CLIP, 0, 2400, tier, own),
    ),
    "upsampler-64": Recipe(
        "shared",
        "upsampler_64",
        "32 -> 64 pixels",
        lambda tier, own: upsampler_task(64, tier, own),
    ),
    "upsampler-128": Recipe(
        "shared",
        "upsampler_128",
        "64 -> 128 pixels",
        lambda tier, own: upsampler_task(128, tier, own),
    ),
    "inpaint-upsampler-64": Recipe(
        "shared",
        "inpaint_upsampler_64",
        "32 -> 64 pixels, taught to inpaint",
        lambda tier, own: inpaint_upsampler_task(64, tier, own),
    ),
    "inpaint-upsampler-128": Recipe(
        "shared",
        "inpaint_upsampler_128",
        "64 -> 128 pixels, taught to inpaint",
        lambda tier, own: inpaint_upsampler_task(128, tier, own),
    ),
    "shapes-prior": Recipe(
        "shapes",
        "prior",
        "caption -> image embedding",
        lambda tier, own: prior_task("shapes", tier, own),
    ),
    "shapes-decoder": Recipe(
        "shapes",
        "decoder",
        "image embedding -> 32 pixels",
        lambda tier, own: decoder_task("shapes", tier, own),
    ),
    "emoji-prior": Recipe(
        "emoji",
        "prior",
        "caption -> image embedding",
        lambda tier, own: prior_task("emoji", tier, own),
    ),
    "emoji-decoder": Recipe(
        "emoji",
        "decoder",
        "image embedding -> 32 pixels",
        lambda tier, own: decoder_task("emoji", tier, own),
    ),
    "shapes-ar-prior": Recipe(
        "shapes",
        "ar_prior",
        "caption -> image embedding, code by code",
        lambda tier, own: ar_prior_task("shapes", tier, own),
    ),
    "shapes-regression": Recipe(
        "shapes",
        "regression",
        "caption -> mean embedding",
        lambda tier, own: regression_task("shapes", tier, own),
    ),
    "shapes-inpaint": Recipe(
        "shapes",
        "inpaint_decoder",
        "the decoder, taught to inpaint",
        lambda tier, own: inpaint_task("shapes", tier, own),
    ),
    "emoji-ar-prior": Recipe(
        "emoji",
        "ar_prior",
        "caption -> image embedding, code by code",
        lambda tier, own: ar_prior_task("emoji", tier, own),
    ),
    "emoji-regression": Recipe(
        "emoji",
        "regression",
        "caption -> mean embedding",
        lambda tier, own: regression_task("emoji", tier, own),
    ),
    "emoji-inpaint": Recipe(
        "emoji",
        "inpaint_decoder",
        "the decoder, taught to inpaint",
        lambda tier, own: inpaint_task("emoji", tier, own),
    ),
    "judge": Recipe(
        "shared",
        "judge",
        "a second CLIP, to evaluate with",
        lambda tier, own: clip_task("judge", JUDGE, 1, 700, tier, own),
    ),
    "oracle": Recipe("shapes", "oracle", "reads a scene's factors off a picture", oracle_task),
    "ddpm": Recipe(
        "shapes",
        "ddpm",
        "one object at 16 pixels: DDPM",
        lambda tier, own: ddpm_task("ddpm", DDPM, tier, own),
    ),
    "iddpm": Recipe(
        "shapes",
        "iddpm",
        "the same: improved DDPM",
        lambda tier, own: ddpm_task("iddpm", IDDPM, tier, own),
    ),
}


# --- running and publishing -------------------------------------------------------------------


def find(name: str, tier: str) -> Recipe:
    """The recipe of this name; raises Dalle2EduError for an unknown recipe or tier, listing the
    known ones.
    """
    if name not in RECIPES:
        raise Dalle2EduError(f"Unknown recipe {name!r}; known: {', '.join(RECIPES)}.")
    if tier not in TIERS:
        raise Dalle2EduError(f"Unknown tier {tier!r}; known: {', '.join(TIERS)}.")
    return RECIPES[name]


def run(
    name: str,
    tier: str = "cpu",
    out: Path | None = None,
    resume: bool = False,
    data: str | None = None,
    max_minutes: float | None = None,
    steps: int | None = None,
    mixed_precision: Literal["no", "bf16"] | None = None,
    logger: Literal["csv", "tensorboard"] = "csv",
    progress: bool = True,
    fsdp: bool = False,
) -> Path:
    """Train a recipe in `out` (runs/<name>-<tier> unless given); return the last checkpoint's
    path.

    data: what to learn from in place of the recipe's own world, see `read_own`. steps and
    mixed_precision replace the tier's. fsdp splits the model among the processes. Raises
    Dalle2EduError for what can't be found or read."""
    recipe, out = find(name, tier), out or Path("runs") / f"{name}-{tier}"
    own = read_own(data, recipe, out) if data else None
    torch.manual_seed(
        seed_for("weights", name)
    )  # the first weights are a function of the recipe's name
    task = recipe.task(tier, own)
    source: Any = task.data if isinstance(own, Path) else own  # type: ignore[attr-defined]
    task.stream = None if isinstance(own, Pairs) else source  # type: ignore[attr-defined]
    task.about = {"recipe": name, "tier": tier, "data": data, "clip": clip_hash(recipe)}
    changes: dict[str, Any] = {"steps": steps, "mixed_precision": mixed_precision}
    task.config = replace(
        task.config, **{key: value for key, value in changes.items() if value is not None}
    )
    checkpoint = train(task, out, resume, progress, logger, max_minutes, fsdp=fsdp)
    if processes().is_main_process:
        where = {"device": describe_device(), "commit": commit()}
        (out / "run.json").write_text(json.dumps(where, indent=2))
    return checkpoint


def clip_hash(recipe: Recipe) -> str:
    """The hash of the CLIP whose embeddings a part learns, "" for one that learns none."""
    return zoo.cards()["shared", "clip"].sha256 if recipe.part in zoo.READS_CLIP else ""


def publish(run_dir: Path, notes: str = "", metrics: dict[str, float] | None = None) -> Path:
    """Put a run's averaged weights into the zoo with a card; return the weights' path."""
    checkpoint, where = latest_checkpoint(run_dir / "checkpoint"), run_dir / "run.json"
    if checkpoint is None:
        raise Dalle2EduError(
            f"{run_dir} holds no run: train there first, with `dalle2-edu train`."
        )
    state, about = checkpoint.state, checkpoint.state["metadata"]
    recipe = RECIPES[about["recipe"]]
    config_class, model_class = zoo.classes(recipe.part)
    module = model_class(from_dict(config_class, about["model"]))
    module.load_state_dict(checkpoint.weights)
    numbers = state["numbers"]  # empty if the run was stopped before it first wrote its log
    loss = {"training loss": numbers["loss"]} if numbers else {}
    card = zoo.Card(
        recipe=about["recipe"],
        tier=about["tier"],
        data_licence="the reader's own pictures" if about["data"] else LICENCES[recipe.domain],
        clip=about["clip"],
        minutes=round(state["minutes"], 1),
        steps=state["step"],
        metrics={name: round(value, 4) for name, value in {**loss, **(metrics or {})}.items()},
        date=date.today().isoformat(),
        notes=notes,
        **(
            json.loads(where.read_text()) if where.exists() else {}
        ),  # device and commit; a killed run has not said
    )
    return zoo.save(recipe.domain, recipe.part, module, card)


def describe_device() -> str:
    """What a card says of the machine: the GPU's name, or the number of CPU threads."""
    if torch.cuda.is_available():
        return f"one {torch.cuda.get_device_name()} GPU"
    return f"{torch.get_num_threads()} CPU thread(s)"


def commit() -> str:
    """The commit of the code that runs, with a + if files were changed since; "" outside a git
    checkout.
    """
    asked = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty=+",
        "--abbrev=12",
        "--match=",
    ]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    return answer.stdout.strip()
