"""The zoo: trained weights that ship with the book, and a card for each that says what they
are.

A chapter that needs a trained model should not cost an afternoon of training first. So every
trained part of the miniature lies here as two files with one name:

    <domain>/<part>.safetensors    the weights, rounded to half precision: 2 bytes a number in place of 4
    <domain>/<part>.json           the card: how it was trained, how good it is, the SHA-256 of the weights

Three rules make a file that you were handed safe to use:

1. Safetensors only. It holds numbers and names; reading it can't run code, as unpickling a
   `.pt` file can.
2. The hash of the weights must equal the card's, or nothing is loaded: a file cut off or
   swapped is refused.
3. Every name and shape is compared before the first number is copied: a model is loaded whole
   or not at all.

Weights are stored in half precision and used in single: rounding moves a weight by at most 1
part in 2048, which no picture shows, and arithmetic on a CPU is faster and safer in float32.

    from dalle2_edu import zoo
    prior = zoo.load("emoji", "prior")
    print(zoo.cards()["emoji", "prior"].metrics)

Set the environment variable `DALLE2_EDU_ZOO` to a folder of your own to keep your weights apart
from the book's. Chapter 01 loads from the zoo; chapter 08 shows how a run is published into it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from dalle2_edu.config import from_dict
from dalle2_edu.errors import Dalle2EduError

# --- who lives in the zoo ---------------------------------------------------------------------

# `shared` parts were trained on both data sets together; the others on one.
PARTS: dict[str, tuple[str, ...]] = {
    "shared": (
        "clip",
        "judge",
        "upsampler_64",
        "upsampler_128",
        "inpaint_upsampler_64",
        "inpaint_upsampler_128",
    ),
    "shapes": (
        "prior",
        "decoder",
        "ar_prior",
        "regression",
        "inpaint_decoder",
        "oracle",
        "ddpm",
        "iddpm",
    ),
    "emoji": ("prior", "decoder", "ar_prior", "regression", "inpaint_decoder"),
}

# These learned the embeddings of one CLIP: another CLIP's would be noise to them.
READS_CLIP = ("prior", "decoder", "ar_prior", "regression", "inpaint_decoder")

# part -> (module, config class, model class). Names, not classes: a file is imported when a
# model is wanted. The judge is a second CLIP, trained apart, so that the CLIP that guided a
# drawing does not also mark it.
CLASSES: dict[str, tuple[str, str, str]] = {
    "clip": ("dalle2_edu.text2image.clip", "ClipConfig", "Clip"),
    "judge": ("dalle2_edu.text2image.clip", "ClipConfig", "Clip"),
    "prior": ("dalle2_edu.unclip.prior", "PriorConfig", "DiffusionPrior"),
    "decoder": ("dalle2_edu.unclip.decoder", "DecoderConfig", "Decoder"),
    "ar_prior": ("dalle2_edu.unclip.ar_prior", "ARPriorConfig", "ARPrior"),
    "regression": ("dalle2_edu.unclip.regression", "PriorConfig", "RegressionPrior"),
    "inpaint_decoder": (
        "dalle2_edu.unclip.inpaint_networks",
        "DecoderConfig",
        "InpaintDecoder",
    ),
    "upsampler_64": ("dalle2_edu.unclip.upsampler", "UpsamplerConfig", "Upsampler"),
    "upsampler_128": ("dalle2_edu.unclip.upsampler", "UpsamplerConfig", "Upsampler"),
    "inpaint_upsampler_64": (
        "dalle2_edu.unclip.inpaint_networks",
        "UpsamplerConfig",
        "InpaintUpsampler",
    ),
    "inpaint_upsampler_128": (
        "dalle2_edu.unclip.inpaint_networks",
        "UpsamplerConfig",
        "InpaintUpsampler",
    ),
    "oracle": ("dalle2_edu.evaluation.oracle", "OracleConfig", "Oracle"),
    "ddpm": ("dalle2_edu.diffusion.ddpm", "DdpmConfig", "Ddpm"),
    "iddpm": ("dalle2_edu.diffusion.ddpm", "DdpmConfig", "Ddpm"),
}


@dataclass(frozen=True)
class Card:
    """What there is to know about one file of weights. On disk: the same fields, as JSON."""

    recipe: str  # what trained it: the name that `dalle2-edu train` takes
    tier: str  # how big the run was: smoke, cpu or gpu
    data_licence: str  # the licence of the pictures that it learned from
    config: dict[str, Any] = field(
        default_factory=dict
    )  # the fields of its config class; `save` fills it in
    clip: str = (
        ""  # the hash of the CLIP whose embeddings it learned; "" if it has to do with none
    )
    commit: str = ""  # the version of this book's code that trained it
    device: str = ""  # what it ran on: "2 CPU cores", "one H200 GPU"
    minutes: float = 0.0  # how long the training took, wall clock
    steps: int = 0  # how many updates the weights have had
    metrics: dict[str, float] = field(
        default_factory=dict
    )  # as `dalle2-edu evaluate` prints them
    sha256: str = ""  # the hash of the weights' file; `save` fills it in
    date: str = ""  # the day it was trained, YYYY-MM-DD
    notes: str = ""  # what a user ought to know: what it can't do, what cut the training short


def folder() -> Path:
    """Where the zoo is: `DALLE2_EDU_ZOO` if that is set, otherwise inside the package."""
    return Path(os.environ.get("DALLE2_EDU_ZOO") or Path(__file__).parent)


def known() -> dict[str, tuple[str, ...]]:
    """Every domain and its parts, whether their weights are here or not: {"shared": ("clip",
    ...), ...}.
    """
    return dict(PARTS)


def classes(part: str) -> tuple[type[Any], type[nn.Module]]:
    """The config class and the model class of a part, imported now."""
    module_name, config_class, model_class = CLASSES[part]
    module = import_module(module_name)
    return getattr(module, config_class), getattr(module, model_class)


def cards() -> dict[tuple[str, str], Card]:
    """The cards of the weights that are here: (domain, part) -> Card.

    Raises Dalle2EduError, naming the file, for a card that can't be read.
    """
    everything = [(domain, part) for domain, parts in known().items() for part in parts]
    return {names: _read_card(*names) for names in everything if _card_file(*names).exists()}


# --- loading ----------------------------------------------------------------------------------


def load(domain: str, part: str, device: str | torch.device = "cpu") -> Any:
    """The trained `part` of `domain`, in float32 on `device`, in evaluation mode.

    Its class is that of `CLASSES[part]`, hence `Any` here. Raises Dalle2EduError when the name
    is unknown (listing the known ones), when a file is missing, damaged or has another hash
    than the card says, and when the weights don't fit the config."""
    _check_known(domain, part)
    card = _read_card(domain, part)
    file = _weights_file(domain, part)
    tensors = _read_weights(file, card.sha256)
    module = _build(part, card)
    _check_fit(module, tensors, file)
    module.load_state_dict(tensors)  # copies each half-precision number into a float32 one
    return module.to(device).eval()


def _check_known(domain: str, part: str) -> None:
    if domain not in PARTS:
        raise Dalle2EduError(f'The zoo has no domain "{domain}"; it has {", ".join(PARTS)}.')
    if part not in PARTS[domain]:
        raise Dalle2EduError(
            f'The zoo has no part "{part}" in {domain}; it has {", ".join(PARTS[domain])}.'
        )


def _weights_file(domain: str, part: str) -> Path:
    return folder() / domain / f"{part}.safetensors"


def _card_file(domain: str, part: str) -> Path:
    return folder() / domain / f"{part}.json"


def _read_card(domain: str, part: str) -> Card:
    file = _card_file(domain, part)
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        wanted = {each.name for each in fields(Card)}
        return Card(**{name: value for name, value in values.items() if name in wanted})
    except FileNotFoundError:
        raise Dalle2EduError(
            f"The zoo has no {domain} {part} yet: {file} is missing. "
            "Train it with `dalle2-edu train`, then `dalle2-edu zoo publish` the run."
        ) from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise Dalle2EduError(f"The card {file} can't be read: {_one_line(error)}.") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _read_weights(file: Path, expected: str) -> dict[str, Tensor]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise Dalle2EduError(f"The weights {file} can't be read: {error.strerror}.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise Dalle2EduError(
            f"The weights {file} are not those of their card: SHA-256 is {found}, the card says"
            f" {expected}. Restore the file, or publish it again."
        )
    _loaded[f"{file.parent.name}/{file.stem}"] = found
    try:
        return tensors_from_bytes(content)
    except SafetensorError as error:
        raise Dalle2EduError(
            f"The weights {file} are no safetensors file: {_one_line(error)}."
        ) from error


def _build(part: str, card: Card) -> nn.Module:
    config_class, model_class = classes(part)
    return model_class(from_dict(config_class, card.config))


def _check_fit(module: nn.Module, tensors: dict[str, Tensor], file: Path) -> None:
    """Compare all names and shapes before anything is copied, so that no model is ever half
    loaded.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in [*expected, *found]:
        if expected.get(name) != found.get(name):
            raise Dalle2EduError(
                f"The weights {file} don't fit the card's config: {name} should be"
                f" {_shape(expected, name)}, the file has {_shape(found, name)}."
            )


def _shape(shapes: dict[str, tuple[int, ...]], name: str) -> str:
    return str(shapes[name]) if name in shapes else "absent"


_loaded: dict[str, str] = {}  # "emoji/prior" -> SHA-256, of this process


def loaded() -> dict[str, str]:
    """The parts loaded so far, "emoji/prior" -> SHA-256: a notebook's page keeps it, so that a
    page that shows weights of yesterday is found out.
    """
    return dict(sorted(_loaded.items()))


# --- one CLIP for all -------------------------------------------------------------------------


def fits(domain: str, part: str) -> bool:
    """Whether the zoo has this part, and the part learned from the CLIP that is in the zoo."""
    known_cards = cards()
    card, clip = known_cards.get((domain, part)), known_cards.get(("shared", "clip"))
    return card is not None and clip is not None and card.clip == clip.sha256


def check_same_clip(domain: str, parts: Sequence[str] = ("prior", "decoder")) -> None:
    """Raise unless those of these parts that the zoo has learned the embeddings of the CLIP
    that is in the zoo.
    """
    known_cards = cards()
    for part in parts:
        card, clip = known_cards.get((domain, part)), known_cards.get(("shared", "clip"))
        if card and clip and card.clip != clip.sha256:
            raise Dalle2EduError(
                f"The zoo's {domain} {part} learned from another CLIP ({card.clip[:12]}) than"
                f" the zoo's ({clip.sha256[:12]}): train and publish {card.recipe} again."
            )


# --- saving -----------------------------------------------------------------------------------


def save(domain: str, part: str, module: nn.Module, card: Card) -> Path:
    """Put a trained module into the zoo with its card; returns the path of the weights.

    The card's config and sha256 are filled in here. Both files are written beside their places
    and then renamed, so a full disk leaves what was there. Raises Dalle2EduError for an unknown
    name, a weight that half precision can't hold, or a failed write."""
    _check_known(domain, part)
    content = tensors_to_bytes(_halved(module))
    config: Any = module.config
    card = replace(card, config=asdict(config), sha256=hashlib.sha256(content).hexdigest())
    _write_together(
        {_weights_file(domain, part): content, _card_file(domain, part): _card_text(card)}
    )
    return _weights_file(domain, part)


def quote(domain: str, part: str, metrics: dict[str, float]) -> Card:
    """Add an evaluation's numbers to a card, rounded to four digits after the point; the
    weights stay as they are.
    """
    _check_known(domain, part)
    card = _read_card(domain, part)
    card = replace(
        card,
        metrics={**card.metrics, **{name: round(value, 4) for name, value in metrics.items()}},
    )
    _write_together({_card_file(domain, part): _card_text(card)})
    return card


def _card_text(card: Card) -> bytes:
    return (json.dumps(asdict(card), indent=2, ensure_ascii=False) + "\n").encode()


def _halved(module: nn.Module) -> dict[str, Tensor]:
    """Every floating tensor in half precision; copies, as safetensors refuses tensors that
    share memory.
    """
    halved = {}
    for name, tensor in module.state_dict().items():
        dtype = torch.float16 if tensor.is_floating_point() else tensor.dtype
        halved[name] = tensor.detach().to("cpu", dtype, copy=True).contiguous()
        if not torch.isfinite(halved[name]).all():
            raise Dalle2EduError(
                f"{name} has a number that half precision can't hold: nan, or beyond 65504."
            )
    return halved


def _write_together(contents: dict[Path, bytes]) -> None:
    """Write all files under temporary names, then rename them one after the other.

    If the power fails between two renames, the old card's hash differs from the new weights':
    `load` refuses."""
    temporary = {file: file.with_name(f".{file.name}.unfinished") for file in contents}
    with _disk_errors(next(iter(contents)).parent):
        try:
            for file, content in contents.items():
                _write_to_disk(temporary[file], content)
            for file in contents:
                temporary[file].replace(file)
        finally:
            for path in temporary.values():
                path.unlink(missing_ok=True)


def _write_to_disk(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())  # onto the disk itself, before it takes the old file's place


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise Dalle2EduError(
            f"Could not write into {target}: {reason}. No file has changed."
        ) from error
