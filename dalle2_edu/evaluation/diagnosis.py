"""Where is the scene lost? DALL·E 2 taken apart, and each part asked on its own.

The whole pipeline draws some scenes right and others wrong. Which of its networks is to
blame? In the shapes world the truth is known, so every link of the chain can be fed with
the truth and asked what it still holds:

    the judge                what the oracle says of real pictures at 32 pixels
    z_i, read by a probe     a small network reads the scene off the true embedding
    the prior's z_i, read    the same network reads it off what the prior draws
    the decoder, z_i only    it paints the true embedding without a caption
    the decoder, text only   it paints the caption without an embedding
    the decoder, both        as it was trained
    the whole chain          the prior's embedding and the caption
    and enlarged             the same, at 128 pixels

A scene counts as right if every attribute of it is right. Where a row falls, the scene is
lost. Compositions that were never drawn in training have a column of their own: a network
that holds seen scenes only has learned them by heart.

The probe is read with care. It learns from the embeddings of seen scenes, whitened, so it
says what a network behind z_i can find there, not what is there in principle.

Chapter 18 uses this file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dalle2_edu import zoo
from dalle2_edu.data.shapes import FACTORS, Scenes, captions, render, sample_scenes
from dalle2_edu.drawing.run import Run
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.evaluation.exams import sample_split
from dalle2_edu.evaluation.intervals import Measure, share
from dalle2_edu.evaluation.oracle import ALL_RIGHT, Oracle, marks, oracle_loss
from dalle2_edu.evaluation.tables import table
from dalle2_edu.text2image.clip import Clip, TextEncoding
from dalle2_edu.unclip.latents import PCA, fit_pca, spreads
from dalle2_edu.unclip.pipeline import UnCLIP
from dalle2_edu.unclip.prior import nearest_to_text

SMALL = 32  # pixels: what the decoder draws, and all that the oracle needs
SPLITS = ("seen", "held_out")
BATCH = 50


@dataclass(frozen=True)
class DiagnosisPlan:
    """How many scenes of each split are asked, and how the probe learns."""

    scenes: int = 100
    seed: int = 0
    probe_scenes: int = 10_000
    probe_steps: int = 1500

    def __post_init__(self) -> None:
        if self.scenes < 2:
            raise Dalle2EduError(f"scenes is {self.scenes}; it must be at least 2.")
        if self.probe_scenes < 2 or self.probe_steps < 1:
            raise Dalle2EduError("The probe needs two scenes and one step at least.")


# --- what is asked --------------------------------------------------------------------


@dataclass(frozen=True)
class Questions:
    """Scenes, their captions as CLIP reads them, and their true embeddings."""

    scenes: Scenes
    text: TextEncoding
    null: TextEncoding  # as many empty texts
    true_emb: Tensor  # (B, D)
    seeds: list[int]


def ask(unclip: UnCLIP, split: str, plan: DiagnosisPlan) -> Questions:
    """The scenes of a split, with English and Chinese captions by turns."""
    scenes = sample_split(split, plan.scenes, plan.seed)
    english = captions(scenes, "en")
    chinese = captions(scenes, "zh")
    pairs = zip(english, chinese, strict=True)
    texts = [pair[i % 2] for i, pair in enumerate(pairs)]
    return Questions(
        scenes=scenes,
        text=unclip.encode_text(texts),
        null=unclip.encode_text([""] * len(texts)),
        true_emb=embed(unclip.clip, scenes),
        seeds=[plan.seed + i for i in range(len(texts))],
    )


@torch.no_grad()
def embed(clip: Clip, scenes: Scenes) -> Tensor:
    """The true image embeddings of scenes, (B, D): CLIP looks at their renders."""
    device = next(clip.parameters()).device
    side = clip.image_size
    parts = [scenes[i : i + BATCH] for i in range(0, len(scenes), BATCH)]
    return torch.cat([clip.encode_image(render(p, side).to(device)) for p in parts])


# --- the probe ------------------------------------------------------------------------


class Probe(nn.Module):
    """Whitened embeddings (B, D) -> an answer for each factor, as the oracle's."""

    def __init__(self, pca: PCA, width: int = 512):
        super().__init__()
        dim = len(pca.mean)
        self.pca = pca
        self.body = nn.Sequential(
            nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width), nn.GELU()
        )
        heads = {name: nn.Linear(width, len(FACTORS[name])) for name in FACTORS}
        self.heads = nn.ModuleDict(heads)

    def forward(self, w: Tensor) -> dict[str, Tensor]:
        h = self.body(w)  # (B, width)
        return {name: head(h) for name, head in self.heads.items()}

    def whitened(self, z: Tensor) -> Tensor:
        """Embeddings (B, D) as the probe reads them: mean 0, variance 1 on each axis."""
        return self.pca.project(z) / spreads(self.pca)

    @torch.no_grad()
    def predict(self, z: Tensor) -> dict[str, Tensor]:
        """The likeliest value of every factor: name -> int64 (B,)."""
        answers = self(self.whitened(z))
        return {name: logits.argmax(dim=1) for name, logits in answers.items()}


PROBE_BATCH = 256
RATE = 2e-3  # the probe's learning rate
NOISE = 0.1  # on whitened embeddings in training: the probe should not lean on rounding


def fit_probe(clip: Clip, plan: DiagnosisPlan) -> Probe:
    """A probe that has learned to read seen scenes off their true embeddings."""
    generator = torch.Generator().manual_seed(plan.seed + 1)
    scenes = sample_scenes(plan.probe_scenes, generator)
    z = embed(clip, scenes).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        probe = Probe(fit_pca(z))
    learn(probe, z, scenes, plan.probe_steps, generator)
    return probe


def learn(
    probe: Probe, z: Tensor, scenes: Scenes, steps: int, generator: torch.Generator
) -> None:
    """Train a probe; the learning rate falls to 0 in a straight line."""
    w = probe.whitened(z)  # (N, D)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=RATE, weight_decay=0.02)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / steps)
        chosen = torch.randint(len(w), (PROBE_BATCH,), generator=generator)
        noise = torch.randn(PROBE_BATCH, w.shape[1], generator=generator)
        loss = oracle_loss(probe(w[chosen] + NOISE * noise), scenes[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


# --- each link of the chain -----------------------------------------------------------

Answers = dict[str, Tensor]  # factor -> int64 (B,)
Link = Callable[[Questions], Answers]


@dataclass(frozen=True)
class Patient:
    """The pipeline under examination, the judge, and the probe."""

    unclip: UnCLIP
    oracle: Oracle
    probe: Probe

    def see(self, pictures: Tensor) -> Answers:
        """What the oracle finds in pictures."""
        found = self.oracle.predict(pictures)
        return {name: values.cpu() for name, values in found.items()}

    def real(self, asked: Questions) -> Answers:
        return self.see(render(asked.scenes, SMALL).to(self.unclip.device))

    def probed(self, asked: Questions) -> Answers:
        return self.probe.predict(asked.true_emb.cpu())

    def imagined(self, asked: Questions) -> Tensor:
        """The prior's embeddings, the better of the candidates: (B, D)."""
        run = Run(asked.seeds, self.unclip.device)
        candidates = self.unclip.draw_embeddings(asked.text, run)
        return nearest_to_text(candidates, asked.text.text_emb)

    def prior_probed(self, asked: Questions) -> Answers:
        return self.probe.predict(self.imagined(asked).cpu())

    def painted(
        self, image_emb: Tensor, text: TextEncoding, seeds: list[int]
    ) -> Tensor:
        """The decoder's pictures, (B, 3, 32, 32)."""
        return self.unclip.paint(image_emb, text, Run(seeds, self.unclip.device))

    def z_only(self, asked: Questions) -> Answers:
        return self.see(self.painted(asked.true_emb, asked.null, asked.seeds))

    def text_only(self, asked: Questions) -> Answers:
        nothing = self.unclip.decoder.null_image_emb.expand_as(asked.true_emb)
        return self.see(self.painted(nothing, asked.text, asked.seeds))

    def both(self, asked: Questions) -> Answers:
        return self.see(self.painted(asked.true_emb, asked.text, asked.seeds))

    def whole(self, asked: Questions) -> Answers:
        return self.see(self.painted(self.imagined(asked), asked.text, asked.seeds))

    def enlarged(self, asked: Questions) -> Answers:
        small = self.painted(self.imagined(asked), asked.text, asked.seeds)
        run = Run(asked.seeds, self.unclip.device)
        return self.see(self.unclip.enlarge(small, run)[-1])

    def links(self) -> dict[str, Link]:
        """The chain, in order; the name of a row and how it is answered."""
        return {
            "real pictures, 32 px": self.real,
            "true z_i, read by a probe": self.probed,
            "the prior's z_i, read by it": self.prior_probed,
            "decoder, true z_i only": self.z_only,
            "decoder, caption only": self.text_only,
            "decoder, both": self.both,
            "prior and decoder": self.whole,
            "prior, decoder, upsamplers": self.enlarged,
        }


@torch.no_grad()
def examine(patient: Patient, plan: DiagnosisPlan) -> dict[str, Any]:
    """The table: for each link the share of scenes that are right, seen and held out."""
    asked = [ask(patient.unclip, split, plan) for split in SPLITS]
    rows: dict[str, list[Measure | None]] = {}
    for name, link in patient.links().items():
        rows[name] = [
            all_right(link(questions), questions.scenes) for questions in asked
        ]
    return table("all right, %", ["seen", "held-out"], rows)


def all_right(answers: Answers, scenes: Scenes) -> Measure:
    """The share of scenes whose every attribute was answered right."""
    return share(marks(answers, scenes)[ALL_RIGHT])


def diagnose(plan: DiagnosisPlan, device: str = "cpu") -> dict[str, Any]:
    """Examine the zoo's shapes. Raises Dalle2EduError for a part that the zoo lacks."""
    unclip = UnCLIP.from_zoo("shapes", device=device)
    oracle = zoo.load("shapes", "oracle", device)
    return examine(Patient(unclip, oracle, fit_probe(unclip.clip, plan)), plan)
