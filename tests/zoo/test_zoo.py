"""The zoo gives back what was put in, and refuses anything else in one clear line."""

import hashlib
import json
import stat
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save
from torch import nn

from dalle2_edu import zoo
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.unclip.prior import DiffusionPrior


@dataclass(frozen=True)
class TinyConfig:
    widths: tuple[int, ...] = (3, 5)


class Tiny(nn.Module):
    def __init__(self, config: TinyConfig):
        super().__init__()
        self.config = config
        self.layer = nn.Linear(*config.widths)
        # two names, one storage: safetensors by itself would refuse
        self.tied = self.layer
        self.register_buffer("seen", torch.tensor(7))


CARD = zoo.Card(recipe="tiny", tier="smoke", data_licence="CC0", steps=12, notes="试验")


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Tiny:
    """A zoo in a temporary folder with one inhabitant, `shapes` `prior`, which is a
    Tiny.
    """
    monkeypatch.setenv("DALLE2_EDU_ZOO", str(tmp_path))
    here = ModuleType("dalle2_edu.tiny")  # as if it were a file of the package
    here.Tiny = Tiny
    monkeypatch.setitem(sys.modules, here.__name__, here)
    monkeypatch.setattr(Tiny, "__module__", here.__name__)
    module = Tiny(TinyConfig())
    zoo.save("shapes", "prior", module, CARD)
    return module


def fails(domain: str = "shapes", part: str = "prior") -> str:
    """The message that `load` fails with, which must be a single line."""
    with pytest.raises(Dalle2EduError) as caught:
        zoo.load(domain, part)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_loads_what_was_saved(tiny):
    loaded = zoo.load("shapes", "prior")
    assert loaded.config == tiny.config  # the tuple is a tuple again, not JSON's list
    assert not loaded.training
    assert loaded.layer.weight.dtype == torch.float32
    assert loaded.seen.dtype == torch.int64
    assert loaded.seen == 7
    half = 2**-11  # what rounding to half precision may change
    torch.testing.assert_close(
        loaded.layer.weight, tiny.layer.weight, rtol=half, atol=1e-7
    )


def test_card_says_what_it_is(tiny):
    card = zoo.cards()["shapes", "prior"]
    assert (card.recipe, card.steps, card.notes) == ("tiny", 12, "试验")
    assert card.config == {"widths": [3, 5]}
    assert len(card.sha256) == 64
    assert list(zoo.cards()) == [("shapes", "prior")]


def test_damaged_weights_are_refused_with_both_hashes(tiny, tmp_path):
    file = tmp_path / "shapes" / "prior.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    message = fails()
    assert str(file) in message
    assert zoo.cards()["shapes", "prior"].sha256 in message
    assert message.count("SHA-256") == 1


def test_missing_files_are_named(tiny, tmp_path):
    (tmp_path / "shapes" / "prior.safetensors").unlink()
    assert "prior.safetensors" in fails()
    (tmp_path / "shapes" / "prior.json").unlink()
    assert "prior.json" in fails()


def test_unreadable_card_is_named(tiny, tmp_path):
    (tmp_path / "shapes" / "prior.json").write_text("{ no JSON")
    assert "prior.json" in fails()


def test_unknown_names_list_the_known_ones(tiny):
    assert "it has shapes" in fails("cats")
    assert "it has prior" in fails("shapes", "clip")
    assert "a to z" in fails("../shapes")


def test_wrong_shape_names_the_tensor(tiny, tmp_path):
    file = tmp_path / "shapes" / "prior.json"
    card = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**card, "config": {"widths": [3, 6]}}))
    message = fails()
    assert "layer.weight should be (6, 3), the file has (5, 3)" in message


def test_unknown_config_field_is_named(tiny, tmp_path):
    file = tmp_path / "shapes" / "prior.json"
    card = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**card, "config": {"depth": 2}}))
    assert "depth" in fails()


@pytest.mark.parametrize("number", [float("nan"), 1e5])
def test_what_half_precision_cannot_hold_is_not_saved(tiny, number):
    before = zoo.cards()
    with torch.no_grad():
        tiny.layer.bias[0] = number
    with pytest.raises(Dalle2EduError, match="layer.bias"):
        zoo.save("shapes", "prior", tiny, CARD)
    assert zoo.cards() == before


def test_full_disk_leaves_what_was_there(tiny, tmp_path, monkeypatch):
    def no_room(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_room)
    with pytest.raises(Dalle2EduError, match="No space left on device"):
        zoo.save("shapes", "prior", Tiny(TinyConfig((3, 9))), CARD)
    monkeypatch.undo()
    monkeypatch.setenv("DALLE2_EDU_ZOO", str(tmp_path))
    left = sorted(path.name for path in (tmp_path / "shapes").iterdir())
    assert left == ["prior.json", "prior.safetensors"]
    assert zoo.cards()["shapes", "prior"].config == {"widths": [3, 5]}


# --- tampered cards and weights -------------------------------------------------------


def change_card(tmp_path, **changes) -> None:
    file = tmp_path / "shapes" / "prior.json"
    card = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**card, **changes}))


@pytest.mark.parametrize(
    "model",
    [
        "os:system",
        "torch.nn:Linear",
        "dalle2_edu.zoo:load",  # ours, and no network
        "dalle2_edu.errors:Dalle2EduError",
        "dalle2_edu.no_such_file:Tiny",
        "dalle2_edu_else.tiny:Tiny",
        "dalle2_edu.tiny",
        "",
    ],
)
def test_only_our_own_networks_are_built(tiny, tmp_path, model):
    change_card(tmp_path, model=model)
    message = fails()
    assert "prior" in message and repr(model) in message


def test_a_network_of_another_package_is_not_saved(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(Tiny, "__module__", "somewhere.else")
    with pytest.raises(Dalle2EduError, match="must be a network of this package"):
        zoo.save("shapes", "other", Tiny(TinyConfig()), CARD)
    assert zoo.known() == {"shapes": ("prior",)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "5",
        "null",
        '{"recipe": 5}',
        '{"tier": "smoke"}',
        "[" * 100_000,
        "\ufeff{}",
    ],
)
def test_tampered_cards_take_one_line_that_names_the_file(tiny, tmp_path, text):
    file = tmp_path / "shapes" / "prior.json"
    file.write_text(text, encoding="utf-8")
    assert str(file) in fails()
    with pytest.raises(Dalle2EduError, match=r"prior\.json"):
        zoo.cards()


@pytest.mark.parametrize(
    "config",
    [{"widths": "wide"}, {"widths": [3, None]}, {"widths": [3, -5]}, {"widths": []}],
)
def test_a_config_that_no_network_has(tiny, tmp_path, config):
    change_card(tmp_path, config=config)
    assert "prior.json" in fails()


@pytest.mark.parametrize("size", [0, -1, "32", 1e9, True, None])
def test_a_picture_without_a_size(tmp_path, monkeypatch, size):
    monkeypatch.setenv("DALLE2_EDU_ZOO", str(tmp_path))
    zoo.save("shapes", "decoder", tiny_models.pipeline().decoder, CARD)
    file = tmp_path / "shapes" / "decoder.json"
    card = json.loads(file.read_text())
    card["config"]["unet"]["image_size"] = size
    file.write_text(json.dumps(card))
    message = fails("shapes", "decoder")
    assert "image_size" in message and str(file) in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t * torch.nan, "nan"),
        (lambda t: t / 0, "infinite"),
        (lambda t: t.float(), "float16"),
        (lambda t: t.to(torch.bfloat16), "float16"),
        (lambda t: t.to(torch.int32), "int32"),
    ],
)
def test_weights_that_no_training_leaves(tiny, tmp_path, change, said):
    file = tmp_path / "shapes" / "prior.safetensors"
    tensors = load_file(file)
    content = save({**tensors, "layer.weight": change(tensors["layer.weight"])})
    file.write_bytes(content)
    change_card(tmp_path, sha256=hashlib.sha256(content).hexdigest())
    message = fails()
    assert "layer.weight" in message and said in message and str(file) in message


def test_files_can_be_read_by_others(tiny, tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    for file in (tmp_path / "shapes").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(
            ordinary.stat().st_mode
        )


def test_a_zoo_in_another_folder(tiny, tmp_path):
    with zoo.at(tmp_path / "mine"):
        assert zoo.cards() == {}
        zoo.save("pets", "prior", tiny, CARD)
        assert zoo.known() == {"pets": ("prior",)}
        # the book's own
        assert zoo.load_or_shipped("shapes", "oracle").config.image_size == 64
    assert zoo.known() == {"shapes": ("prior",)}


@pytest.mark.parametrize(("domain", "part"), sorted(zoo.cards()))
def test_every_part_of_the_shipped_zoo_loads(domain, part, monkeypatch):
    monkeypatch.delenv("DALLE2_EDU_ZOO", raising=False)
    module = zoo.load(domain, part)
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())


def test_quoting_numbers_changes_the_card_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("DALLE2_EDU_ZOO", str(tmp_path))
    file = zoo.save("emoji", "prior", DiffusionPrior(tiny_models.PRIOR), CARD)
    before = file.read_bytes()
    zoo.quote("emoji", "prior", {"right": 0.123456})
    assert zoo.cards()["emoji", "prior"].metrics == {"right": 0.1235}
    assert file.read_bytes() == before
    zoo.load("emoji", "prior")  # the hash still fits
