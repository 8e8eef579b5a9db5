"""A task that learns from shards and writes down what it saw, and a script that runs it
in several processes.

torchrun --nproc-per-node 2 stream_task.py '[{"shards": "set-{0..2}.tar", "out": "run",
"steps": 5, "fsdp": true}]'
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dalle2_edu.baselines.transformer import TransformerBlock
from dalle2_edu.data.stream import Stream
from dalle2_edu.diffusion.unet import UNet, UNetConfig
from dalle2_edu.training import Task, TrainConfig, train

SIDE = 4
CONFIG = TrainConfig(
    steps=1,
    batch_size=4,
    learning_rate=1e-2,
    adam_eps=1e-3,
    warmup=1,
    ema=0.9,
    log_every=1,
    save_every=100,
)


class Painter(nn.Module):
    """Both kinds of blocks that FSDP gathers by themselves, and an attention whose
    weights are used from outside.
    """

    def __init__(self) -> None:
        super().__init__()
        config = UNetConfig(
            SIDE,
            channels=8,
            channel_mult=(1,),
            num_res_blocks=1,
            attention_levels=(0,),
            norm_groups=2,
        )
        self.rows, self.block = nn.Linear(3 * SIDE, 8), TransformerBlock(8, heads=2)
        self.unet = UNet(replace(config, head_channels=4, context_dim=8))

    def forward(self, images: Tensor) -> Tensor:
        context = self.block(
            self.rows(images.permute(0, 2, 1, 3).flatten(2)), None
        )  # (B, S, 8)
        t = torch.zeros(len(images), dtype=torch.int64)
        return self.unet(images, t, context_kv=self.unet.project_context(context)).mean(
            dim=(2, 3)
        )  # (B, 3)


class StreamTask(Task):
    """Tell a picture's mean colour."""

    def __init__(self, config: TrainConfig, stream: Stream, diary: Path) -> None:
        torch.manual_seed(0)
        super().__init__("stream", config, Painter(), len(stream), stream=stream)
        self.diary = diary

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        images, captions = self.stream.take(indices)
        with self.diary.open("a") as diary:
            diary.write(" ".join(several[0] for several in captions) + "\n")
        return {"images": images}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Any]:
        images = batch["images"].float() / 255  # (B, 3, S, S)
        return (model(images).float() - images.mean(dim=(2, 3))).square().mean(), {}

    def metadata(self) -> dict[str, Any]:
        return {}


def run(shards: str, out: str, steps: int, fsdp: bool = False) -> None:
    """Train to `steps`, going on from what is there; each process keeps its own
    diary.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    stream = Stream(shards, SIDE, progress=False)
    config = replace(CONFIG, steps=steps)
    task = StreamTask(config, stream, folder / f"seen-{os.environ.get('RANK', 0)}.txt")
    train(task, folder, resume=True, progress=False, device="cpu", fsdp=fsdp)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for job in json.loads(sys.argv[1]):
        run(**job)
