"""What each of ADM's changes to the U-Net is worth here: one change at a time, equal
training time, three seeds.

    python benchmarks/adm_ablation.py --minutes 1 --out dalle2_edu/data/adm_ablation.json

ADM (arXiv 2105.05233, section 3, Tables 1 to 3) compares at equal training steps on
ImageNet 128; on a small processor the fair currency is time, as a variant that is
faster may train for longer. Time is the processor's own (`time.process_time`), so that
other work on the machine does not count; one thread.

Each run is measured twice: the loss on pictures that were never trained on, with the
same noise and the same steps for all variants, and the Fréchet distance of 400 drawn
pictures in the oracle's features. A run that is in the file already is not repeated.
Chapter 10 shows the table of the stored rows, `dalle2_edu/data/adm_ablation.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dalle2_edu import zoo
from dalle2_edu.data import shapes
from dalle2_edu.diffusion.ddpm import Ddpm, DdpmConfig, small_unet
from dalle2_edu.diffusion.unet import UNetConfig
from dalle2_edu.evaluation.frechet import frechet_distance
from dalle2_edu.files import atomic_write
from dalle2_edu.training.ema import EMA

ADM = replace(small_unet(), attention_levels=(1, 2))
VARIANTS: dict[str, UNetConfig] = {
    "ADM": ADM,
    "add + GroupNorm, no AdaGN": replace(ADM, scale_shift_norm=False),
    "attention at one resolution": replace(ADM, attention_levels=(1,)),
    "no attention": replace(ADM, attention_levels=(), middle_attention=False),
    "one head": replace(ADM, head_channels=64),
    "plain down and up": replace(ADM, resblock_updown=False),
}
BATCH = 64
RATE = 1e-3
TRAINED_ON = 20_000
MEASURED_ON = 400
SEEDS = (0, 1, 2)


def to_float(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1  # bytes => [-1, 1]


def train(unet: UNetConfig, images: Tensor, minutes: float, seed: int) -> Ddpm:
    """Train one variant for so many minutes of the processor; the averaged weights."""
    torch.manual_seed(seed)
    model = Ddpm(DdpmConfig(schedule="cosine", prediction="v", unet=unet))
    averaged = EMA(model, decay=0.998)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    start = time.process_time()
    step = 0
    while (spent := (time.process_time() - start) / 60 / minutes) < 1:
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        x0 = to_float(images[chosen])
        loss = batch_loss(model, x0, generator)
        # the rate falls over the time there is: a faster variant makes more steps of it
        for group in optimizer.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * spent))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        averaged.update(model, step)
        step += 1
    averaged.module.steps_made = step
    return averaged.module


def batch_loss(model: Ddpm, x0: Tensor, generator: torch.Generator) -> Tensor:
    """The loss of v at random steps, a scalar."""
    steps = model.diffusion.num_timesteps
    index = torch.randint(steps, (len(x0),), generator=generator)
    noise = torch.randn(x0.shape, generator=generator)
    return model.diffusion.training_losses(model, x0, index, noise)["loss"].mean()


@torch.no_grad()
def measure(model: Ddpm) -> dict[str, float]:
    """The loss on fresh pictures, and the distance of drawn ones from real ones."""
    fresh, _ = shapes.single_objects(2000, 16, seed=77)
    generator = torch.Generator().manual_seed(7)  # the same noise for every variant
    losses = [
        float(batch_loss(model, to_float(part), generator)) for part in fresh.split(250)
    ]
    oracle = zoo.load("shapes", "oracle")

    def features(pictures: Tensor) -> Tensor:
        large = F.interpolate(pictures.clamp(-1, 1), 64, mode="nearest")
        return oracle.join(oracle.features(large))  # (N, 96)

    real = torch.cat([features(to_float(part)) for part in fresh.split(250)])
    centred = real - real.mean(dim=0)
    main = torch.linalg.svd(centred, full_matrices=False)[2][:24].T  # (96, 24)
    drawn = torch.cat(
        [
            features(model.sample(range(first, first + 100), 25, "ddim"))
            for first in range(0, MEASURED_ON, 100)
        ]
    )
    spread = centred.std()
    distance = frechet_distance(
        centred @ main / spread, (drawn - real.mean(dim=0)) @ main / spread
    )
    return {"loss": sum(losses) / len(losses), "frechet": distance}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--out", type=Path, default=Path("adm_ablation.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    done = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    images, _ = shapes.single_objects(TRAINED_ON, 16, seed=0)
    for (
        seed
    ) in SEEDS:  # a seed of all variants first: a table that is broken off is fair
        for name, unet in VARIANTS.items():
            if any(row["variant"] == name and row["seed"] == seed for row in done):
                continue
            model = train(unet, images, arguments.minutes, seed)
            row = {
                "variant": name,
                "seed": seed,
                "minutes": arguments.minutes,
                "steps": model.steps_made,
                "parameters": sum(p.numel() for p in model.parameters()),
                **measure(model),
            }
            done.append(row)
            print(row, flush=True)
            atomic_write(arguments.out, json.dumps(done, indent=1))


if __name__ == "__main__":
    main()
