"""The diagnosis, on a patient whose illness is known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle2_edu import zoo
from dalle2_edu.data.shapes import Scenes, render
from dalle2_edu.data.text import default_tokenizer
from dalle2_edu.evaluation.diagnosis import (
    DiagnosisPlan,
    Patient,
    ask,
    examine,
    fit_probe,
)
from dalle2_edu.evaluation.exams import sample_split
from dalle2_edu.text2image.clip import TextEncoding

PLAN = DiagnosisPlan(scenes=8, seed=3, probe_scenes=400, probe_steps=150)


class PixelClip(nn.Module):
    """A "CLIP" whose embedding is a small copy of the picture."""

    image_size = 8

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))

    def encode_image(self, images: Tensor) -> Tensor:
        return F.normalize(F.avg_pool2d(images, 2).flatten(1) + 2, dim=1)


class Deaf:
    """A pipeline that paints a scene right from its true embedding and never from its
    caption; its prior imagines the same for all."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.clip = PixelClip()
        self.decoder = self
        self.null_image_emb = torch.zeros(48)
        self.album: list[tuple[Tensor, Tensor]] = []

    def know(self, scenes: Scenes) -> None:
        for i in range(len(scenes)):
            embedding = self.clip.encode_image(render(scenes[i], 8))[0]
            self.album.append((embedding, render(scenes[i], 32)[0]))

    def encode_text(self, prompts: list[str]) -> TextEncoding:
        tokens = default_tokenizer()(prompts)
        empty = torch.zeros(len(prompts), 48)
        return TextEncoding(empty, empty[:, None], tokens > 0, tokens)

    def paint(self, image_emb: Tensor, text: TextEncoding, run: object) -> Tensor:
        pictures = torch.zeros(len(image_emb), 3, 32, 32)
        for i, z in enumerate(image_emb):
            for embedding, picture in self.album:
                if torch.allclose(z, embedding, atol=1e-5):
                    pictures[i] = picture
        return pictures

    def draw_embeddings(self, text: TextEncoding, run: object) -> Tensor:
        return torch.zeros(len(text.text_emb), 2, 48)

    def enlarge(self, small: Tensor, run: object) -> list[Tensor]:
        return [small, F.interpolate(small, scale_factor=4.0)]


@pytest.fixture(scope="module")
def patient() -> Patient:
    unclip = Deaf()
    for split in ("seen", "held_out"):
        unclip.know(sample_split(split, PLAN.scenes, PLAN.seed))
    probe = fit_probe(unclip.clip, PLAN)  # type: ignore[arg-type]
    return Patient(unclip, zoo.load("shapes", "oracle"), probe)  # type: ignore[arg-type]


def test_the_table_says_which_link_is_broken(patient: Patient) -> None:
    rows = examine(patient, PLAN)["rows"]
    values = {name: [cell["value"] for cell in cells] for name, cells in rows.items()}
    assert min(values["real pictures, 32 px"]) >= 85
    for sound in ("decoder, true z_i only", "decoder, both"):
        assert values[sound] == values["real pictures, 32 px"]
    for broken in ("decoder, caption only", "prior and decoder"):
        assert max(values[broken]) == 0
    assert {cell["n"] for cells in rows.values() for cell in cells} == {PLAN.scenes}


def test_the_probe_reads_what_the_embedding_holds(patient: Patient) -> None:
    asked = ask(patient.unclip, "seen", DiagnosisPlan(scenes=60, seed=9))
    found = patient.probed(asked)
    truth = asked.scenes.factors
    right = (found["background"] == truth["background"]).float().mean()
    assert right > 0.8  # a small copy shows the background
    shuffled = (found["background"].flip(0) == truth["background"]).float().mean()
    assert shuffled < 0.5
