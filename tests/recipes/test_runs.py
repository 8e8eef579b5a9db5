"""Recipes from end to end at the smoke tier: train, resume, publish, load; and what is
refused.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from PIL import Image
from safetensors.torch import save_file

from dalle2_edu import zoo
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.recipes import diffusion, recipe, runs, text2image, unclip
from dalle2_edu.text2image.clip import Clip
from dalle2_edu.training import load_checkpoint
from dalle2_edu.unclip.decoder import Decoder
from dalle2_edu.unclip.upsampler import Upsampler


@pytest.fixture(autouse=True)
def small_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unclip, "GRID", 2)
    monkeypatch.setattr(diffusion, "GRID", 2)


@pytest.fixture
def own_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty zoo of this test's own."""
    monkeypatch.setenv("DALLE2_EDU_ZOO", str(tmp_path / "zoo"))
    return tmp_path / "zoo"


def run(name: str, out: Path, **options: Any) -> Path:
    return runs.run(
        name, "smoke", out=out, progress=False, mixed_precision="no", **options
    )


def folder_of_pictures(folder: Path, n: int, broken: int = 0) -> Path:
    """Pictures with captions as a reader might have them, the first ones broken."""
    folder.mkdir()
    for i in range(n):
        Image.new("RGB", (40, 30), (40 * i % 256, 100, 200)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"picture number {i}")
    for i in range(broken):
        (folder / f"{i}.png").write_bytes(b"not a picture")
    return folder


@pytest.mark.parametrize(
    ("name", "tier", "said"),
    [("cat", "smoke", "emoji-decoder"), ("clip", "huge", "smoke, cpu")],
)
def test_unknown_names_list_the_known(
    name: str, tier: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(Dalle2EduError, match=said):
        runs.run(name, tier, out=tmp_path)


def test_every_part_of_the_zoo_has_one_recipe() -> None:
    made = [(training.domain, training.part) for training in runs.trainings().values()]
    assert len(made) == len(set(made))
    assert set(zoo.cards()) == set(made)
    for training in runs.trainings().values():
        card = zoo.card(training.domain, training.part)
        assert card.recipe == training.name
        assert card.model == zoo.model_name(training.recipe.model)


def test_trained_resumed_and_published(tmp_path: Path, own_zoo: Path) -> None:
    out = tmp_path / "run"
    assert run("upsampler-64", out, max_minutes=0).name == "step-00000001"
    checkpoint = run("upsampler-64", out, resume=True)
    assert checkpoint.name == "step-00000003"
    assert (out / "samples" / "step-00000003.png").exists()

    file = runs.publish(out, notes="a test", metrics={"score": 0.12345})
    assert file == own_zoo / "shared" / "upsampler_64.safetensors"
    card = zoo.cards()["shared", "upsampler_64"]
    assert (card.recipe, card.tier, card.steps, card.notes) == (
        "upsampler-64",
        "smoke",
        3,
        "a test",
    )
    assert card.metrics["score"] == 0.1235 and "training loss" in card.metrics

    averaged, trained = (
        load_checkpoint(checkpoint).tensors[part] for part in ("ema", "model")
    )
    loaded = zoo.load("shared", "upsampler_64").state_dict()
    assert all(
        torch.equal(loaded[name], weights.half().float())
        for name, weights in averaged.items()
    )
    assert any(
        not torch.equal(loaded[name], weights.half().float())
        for name, weights in trained.items()
    )


@pytest.mark.parametrize(
    "name", ["shapes-prior", "shapes-decoder", "shapes-ar-prior", "emoji-regression"]
)
def test_what_learns_from_clip_reads_the_zoos(
    name: str, tmp_path: Path, own_zoo: Path
) -> None:
    with pytest.raises(Dalle2EduError, match="shared clip"):
        run(name, tmp_path / "run")
    zoo.save(
        "shared",
        "clip",
        Clip(tiny_models.CLIP),
        zoo.Card("clip", "smoke", "a test's own"),
    )
    run(name, tmp_path / "run")
    training = runs.find(name)
    runs.publish(tmp_path / "run")
    assert zoo.load(training.domain, training.part).config.clip_dim == tiny_models.DIM


def test_the_ar_priors_rank_is_what_the_embeddings_need(
    tmp_path: Path, own_zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo.save(
        "shared",
        "clip",
        Clip(tiny_models.CLIP),
        zoo.Card("clip", "smoke", "a test's own"),
    )
    training = runs.find("emoji-ar-prior", "smoke")
    task = training.task(training.config)
    config = task.metadata()["model"]
    assert f"PCA: {config['rank']} of {tiny_models.DIM}" in capsys.readouterr().out
    assert (
        1 <= config["rank"] < tiny_models.DIM and task.metadata()["pca"]["error"] < 0.01
    )


def test_inpainting_starts_from_the_zoos_decoder(tmp_path: Path, own_zoo: Path) -> None:
    zoo.save(
        "shared",
        "clip",
        Clip(tiny_models.CLIP),
        zoo.Card("clip", "smoke", "a test's own"),
    )
    with pytest.raises(Dalle2EduError, match="emoji decoder"):
        run("emoji-inpaint", tmp_path / "run")
    card = zoo.Card(
        "emoji-decoder",
        "smoke",
        "a test's own",
        clip=zoo.cards()["shared", "clip"].sha256,
    )
    zoo.save("emoji", "decoder", Decoder(tiny_models.DECODER), card)
    run("emoji-inpaint", tmp_path / "run")
    runs.publish(tmp_path / "run")
    assert zoo.load("emoji", "inpaint_decoder").config.unet.in_channels == 7
    assert zoo.cards()["emoji", "inpaint_decoder"].clip == card.clip


def test_inpainting_at_the_large_size_starts_from_the_zoos_upsampler(
    tmp_path: Path, own_zoo: Path
) -> None:
    with pytest.raises(Dalle2EduError, match="shared upsampler_128"):
        run("inpaint-upsampler-128", tmp_path / "run")
    zoo.save(
        "shared",
        "upsampler_128",
        Upsampler(tiny_models.upsampler_config(128)),
        zoo.Card("upsampler-128", "smoke", "a test's own"),
    )
    own = folder_of_pictures(tmp_path / "own", 5)
    run("inpaint-upsampler-128", tmp_path / "run", data=str(own))
    runs.publish(tmp_path / "run")
    assert zoo.load("shared", "inpaint_upsampler_128").config.unet.in_channels == 10
    # it has never seen one
    assert zoo.cards()["shared", "inpaint_upsampler_128"].clip == ""


@pytest.mark.parametrize("name", ["ddpm", "iddpm"])
def test_the_unconditional_models_learn_from_rendered_objects(
    name: str, tmp_path: Path, own_zoo: Path
) -> None:
    run(name, tmp_path / "run")
    runs.publish(tmp_path / "run")
    model = zoo.load("shapes", name)
    assert model.config == runs.find(name).recipe.model_config
    assert model.sample([0], 2).shape == (1, 3, 16, 16)
    assert zoo.cards()["shapes", name].clip == ""  # it has never seen one


def test_own_pictures(tmp_path: Path, own_zoo: Path) -> None:
    source = folder_of_pictures(tmp_path / "mine", 6)
    checkpoint = run("clip", tmp_path / "run", data=str(source), steps=1)
    assert load_checkpoint(checkpoint).state["size"] == 6
    runs.publish(tmp_path / "run")
    assert zoo.cards()["shared", "clip"].data_licence == "the reader's own pictures"


def test_more_than_one_percent_bad_pictures_stop_the_run(tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "mine", 6, broken=1)
    with (
        pytest.warns(UserWarning, match="0.png"),
        pytest.raises(Dalle2EduError, match="1 of 6"),
    ):
        run("clip", tmp_path / "run", data=str(source))
    assert not (tmp_path / "run").exists()


def test_the_oracle_takes_no_pictures_of_yours(tmp_path: Path) -> None:
    source = folder_of_pictures(tmp_path / "mine", 1)
    with pytest.raises(Dalle2EduError, match="truth"):
        run("oracle", tmp_path / "run", data=str(source))


def test_publish_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(Dalle2EduError, match="holds no run"):
        runs.publish(tmp_path)


def test_a_run_stopped_before_its_first_log_can_be_published(
    tmp_path: Path, own_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rarely = replace(
        text2image.RECIPES[0], cpu=replace(text2image.CLIP_TRAINING, log_every=50)
    )
    monkeypatch.setattr(text2image, "RECIPES", (rarely,))
    monkeypatch.setattr(recipe, "SMOKE", {"batch_size": 4})
    out = tmp_path / "run"
    run("clip", out, data=str(folder_of_pictures(tmp_path / "mine", 4)), max_minutes=0)
    runs.publish(out)
    assert zoo.cards()["shared", "clip"].steps == 1


def test_run_says_how_it_was_trained(tmp_path: Path) -> None:
    run(
        "clip",
        tmp_path / "run",
        data=str(folder_of_pictures(tmp_path / "mine", 4)),
        steps=1,
    )
    about = load_checkpoint(tmp_path / "run" / "checkpoint" / "step-00000001").state[
        "metadata"
    ]
    assert (about["recipe"], about["tier"], about["data"]) == (
        "clip",
        "smoke",
        str(tmp_path / "mine"),
    )
    assert (
        json.loads((tmp_path / "run" / "run.json").read_text())["device"]
        == runs.describe_device()
    )


def test_a_run_does_not_go_on_with_other_pictures(tmp_path: Path) -> None:
    run(
        "clip",
        tmp_path / "run",
        data=str(folder_of_pictures(tmp_path / "mine", 4)),
        steps=1,
    )
    with pytest.raises(Dalle2EduError, match="metadata.data"):
        run(
            "clip",
            tmp_path / "run",
            data=str(folder_of_pictures(tmp_path / "others", 4)),
            steps=1,
            resume=True,
        )


def test_a_resumed_run_keeps_its_data_and_its_steps(tmp_path: Path) -> None:
    mine = str(folder_of_pictures(tmp_path / "mine", 4))
    out = tmp_path / "run"
    run("clip", out, data=mine, steps=5, max_minutes=0)
    checkpoint = run("clip", out, resume=True)
    assert checkpoint.name == "step-00000005"
    assert load_checkpoint(checkpoint).state["metadata"]["data"] == mine
    # its cosine was at 0
    longer = load_checkpoint(run("clip", out, resume=True, steps=7))
    assert (longer.step, longer.state["config"]["restarts"]) == (7, [5])


def test_a_run_starts_from_given_weights(tmp_path: Path, own_zoo: Path) -> None:
    mine = str(folder_of_pictures(tmp_path / "mine", 4))
    first = run("clip", tmp_path / "first", data=mine, steps=1)
    weights = load_checkpoint(first).weights
    save_file(
        {name: tensor.clone() for name, tensor in weights.items()},
        tmp_path / "w.safetensors",
    )
    runs.publish(tmp_path / "first")

    started = {}
    for start in (tmp_path / "first", tmp_path / "w.safetensors", "shared/clip"):
        put_in = runs.given_weights(str(start))
        assert all(
            torch.allclose(
                put_in[name].float(), weights[name].float(), rtol=1e-3, atol=1e-4
            )
            for name in weights
        )
        started[start] = runs.hash_of(put_in)
    assert started[tmp_path / "first"] == started[tmp_path / "w.safetensors"]

    begun = {"data": mine, "steps": 2, "start": str(tmp_path / "first")}
    out = tmp_path / "second"
    whole = load_checkpoint(run("clip", tmp_path / "whole", **begun))
    run("clip", out, **begun, max_minutes=0)
    # it need not say --from again
    resumed = load_checkpoint(run("clip", out, resume=True))
    for part, tensors in whole.tensors.items():
        assert all(
            torch.equal(resumed.tensors[part][n], t) for n, t in tensors.items()
        ), part
    with pytest.raises(Dalle2EduError, match="metadata.start"):
        run("clip", out, resume=True, start="shared/clip")


def test_one_step_does_not_lead_far_from_given_weights(tmp_path: Path) -> None:
    mine = str(folder_of_pictures(tmp_path / "mine", 4))
    name = "model.visual.conv1.weight"
    weights = {key: t.clone() for key, t in runs.given_weights("shared/clip").items()}
    weights[name] += 5  # no training of its own would come there
    save_file(weights, tmp_path / "far.safetensors")
    path = run(
        "clip",
        tmp_path / "run",
        data=mine,
        steps=1,
        start=str(tmp_path / "far.safetensors"),
    )
    trained = load_checkpoint(path).tensors["model"][name]
    assert 0 < (trained - weights[name]).abs().max() < 0.1


def test_what_is_no_weights_of_this_model(tmp_path: Path) -> None:
    mine = str(folder_of_pictures(tmp_path / "mine", 4))
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    wrong = {
        "nowhere.safetensors": "There are no weights in nowhere",
        str(tmp_path / "no.safetensors"): "is no safetensors file",
        str(tmp_path / "mine"): "holds no run",
        "shapes/oracle": "don't fit",
        "shapes/nothing": "no shapes nothing",
    }
    for start, said in wrong.items():
        with pytest.raises(Dalle2EduError, match=said):
            run("clip", tmp_path / "run", data=mine, start=start)
    assert not (tmp_path / "run").exists()


def test_a_prior_that_starts_elsewhere_measures_its_own_data(tmp_path: Path) -> None:
    mine = str(folder_of_pictures(tmp_path / "mine", 8))
    path = run("pets-prior", tmp_path / "run", data=mine, start="emoji/prior", steps=1)
    prior = load_checkpoint(path).tensors["model"]
    shipped = zoo.load("emoji", "prior").state_dict()
    measured = [name for name in prior if name.endswith(("mean", "std"))]
    assert measured
    assert not any(torch.allclose(prior[name], shipped[name]) for name in measured)


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": None},
        {"metadata": {"recipe": "clip"}},
        {"minutes": "long"},
        {"numbers": 5},
    ],
)
def test_a_run_with_a_tampered_state_is_not_published(
    change: dict[str, Any], tmp_path: Path, own_zoo: Path
) -> None:
    mine = str(folder_of_pictures(tmp_path / "mine", 4))
    file = run("clip", tmp_path / "run", data=mine, steps=1) / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(Dalle2EduError, match="state.json") as caught:
        runs.publish(tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_two_processes_train_one_run(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = [
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--master-addr=127.0.0.1",
        f"--master-port={port}",
    ]
    settings = [
        "--tier",
        "smoke",
        "--mixed-precision",
        "no",
        "--out",
        str(tmp_path / "run"),
    ]
    data = ["--data", str(folder_of_pictures(tmp_path / "mine", 6))]
    command = [
        sys.executable,
        "-m",
        *launcher,
        "-m",
        "dalle2_edu.cli",
        "train",
        "clip",
        *settings,
        *data,
    ]
    paths = os.pathsep.join(
        [str(Path(runs.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    )
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": paths,
    }
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    state = load_checkpoint(tmp_path / "run" / "checkpoint" / "step-00000003").state
    assert state["processes"] == 2
    assert (tmp_path / "run" / "log.csv").read_text().count(
        "\n"
    ) == 4  # a heading and three steps, each once
    assert state["metadata"]["recipe"] == "clip"
