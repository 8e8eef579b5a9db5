"""The zoo: trained weights that ship with the book, and a card for each that says what
they are.

A chapter that needs a trained model should not cost an afternoon of training first. So
every trained part of the miniature lies here as two files with one name:

    <domain>/<part>.safetensors    the weights, rounded to half precision: 2 bytes a number in place of 4
    <domain>/<part>.json           the card: how it was trained, how good it is, the SHA-256 of the weights

Three rules make a file that you were handed safe to use:

1. Safetensors only. It holds numbers and names; reading it can't run code, as
   unpickling a
   `.pt` file can.
2. The hash of the weights must equal the card's, or nothing is loaded: a file cut off
   or
   swapped is refused.
3. Every name and shape is compared before the first number is copied: a model is loaded
   whole
   or not at all.

Weights are stored in half precision and used in single: rounding moves a weight by at
most 1 part in 2048, which no picture shows, and arithmetic on a CPU is faster and safer
in float32.

    from dalle2_edu import zoo
    prior = zoo.load("emoji", "prior")
    print(zoo.cards()["emoji", "prior"].metrics)

A card also names the model's class ("dalle2_edu.unclip.prior:DiffusionPrior"), so the
zoo needs no list of what lives in it. Only this package's own networks are ever built
from a card.

A folder of your own keeps your weights apart from the book's: `dalle2-edu --zoo FOLDER
...`, the environment variable `DALLE2_EDU_ZOO`, or `with zoo.at(folder): ...` in
Python. Chapter 01 loads from the zoo; chapter 08 shows how a run is published into
it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from dalle2_edu.config import from_dict
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.files import atomic_write, read_json

OURS = "dalle2_edu."  # no other package's classes are built from a card
NAME = re.compile(r"[a-z0-9_]+")  # of a domain and of a part: they become paths


@dataclass(frozen=True)
class Card:
    """What there is to know about one file of weights. On disk: the same fields, as
    JSON.
    """

    recipe: str  # what trained it: the name that `dalle2-edu train` takes
    tier: str  # how big the run was: smoke, cpu or gpu
    data_licence: str  # the licence of the pictures that it learned from
    model: str = ""  # "module:class" of the network; `save` fills it in
    # its config's fields; `save` as well
    config: dict[str, Any] = field(default_factory=dict)
    clip: str = ""  # the hash of the CLIP whose embeddings it learned; "" if none
    commit: str = ""  # the version of this book's code that trained it
    device: str = ""  # what it ran on: "2 CPU cores", "one H200 GPU"
    minutes: float = 0.0  # how long the training took, wall clock
    steps: int = 0  # how many updates the weights have had
    # as `dalle2-edu evaluate` says
    metrics: dict[str, float] = field(default_factory=dict)
    sha256: str = ""  # the hash of the weights' file; `save` fills it in
    date: str = ""  # the day it was trained, YYYY-MM-DD
    # what a user ought to know: what it can't do, what cut the training short
    notes: str = ""


# --- where it is, and what is in it ---------------------------------------------------

SHIPPED = Path(__file__).parent
_chosen: ContextVar[Path | None] = ContextVar("zoo", default=None)


def folder() -> Path:
    """Where the zoo is: what `use` chose, otherwise `DALLE2_EDU_ZOO` if that is set,
    otherwise inside the package.
    """
    return _chosen.get() or Path(os.environ.get("DALLE2_EDU_ZOO") or SHIPPED)


def use(place: Path | None) -> None:
    """Load from this folder, and save into it, from now on; None: as before."""
    _chosen.set(place)


@contextmanager
def at(place: Path) -> Iterator[None]:
    """Load from this folder, and save into it, inside of a `with`."""
    before = _chosen.set(place)
    try:
        yield
    finally:
        _chosen.reset(before)


def known() -> dict[str, tuple[str, ...]]:
    """Every domain and its parts that have a card here: {"shared": ("clip", ...),
    ...}.
    """
    found: dict[str, tuple[str, ...]] = {}
    for file in sorted(folder().glob("*/*.json")):
        domain, part = file.parent.name, file.stem
        if NAME.fullmatch(domain) and NAME.fullmatch(part):
            found[domain] = (*found.get(domain, ()), part)
    return found


def cards() -> dict[tuple[str, str], Card]:
    """The cards of the weights that are here: (domain, part) -> Card.

    Raises Dalle2EduError, naming the file, for a card that can't be read.
    """
    return {
        (domain, part): card(domain, part)
        for domain, parts in known().items()
        for part in parts
    }


def card(domain: str, part: str) -> Card:
    """One card. Raises Dalle2EduError if it is missing or can't be read."""
    _check_known(domain, part)
    return _read_card(domain, part)


# --- loading --------------------------------------------------------------------------


def load(domain: str, part: str, device: str | torch.device = "cpu") -> Any:
    """The trained `part` of `domain`, in float32 on `device`, in evaluation mode.

    Its class is the one that the card names, hence `Any` here. Raises Dalle2EduError
    when there is no such part (listing those that there are), when a file is missing,
    damaged or has another hash than the card says, and when the weights don't fit the
    config or hold numbers that no training leaves.
    """
    stated = card(domain, part)
    file = _weights_file(domain, part)
    tensors = _read_weights(file, stated.sha256)
    module = build(
        model_class(stated.model, file), stated.config, str(_card_file(domain, part))
    )
    check_fit(module, tensors, str(file), stored=True)
    # copies each half-precision number into a float32 one
    module.load_state_dict(tensors)
    return module.to(device).eval()


def load_or_shipped(domain: str, part: str) -> Any:
    """As `load`; a part that is not in a zoo of your own is the book's."""
    here = (
        NAME.fullmatch(domain)
        and NAME.fullmatch(part)
        and _card_file(domain, part).exists()
    )
    if here:
        return load(domain, part)
    with at(SHIPPED):
        return load(domain, part)


def hash_or_shipped(domain: str, part: str) -> str:
    """The hash of the weights that `load_or_shipped` loads."""
    if _card_file(domain, part).exists():
        return card(domain, part).sha256
    with at(SHIPPED):
        return card(domain, part).sha256


def _check_known(domain: str, part: str) -> None:
    _check_names(domain, part)
    if _card_file(domain, part).exists():
        return
    here = known()
    others = here.get(domain, tuple(here))
    has = f"; it has {', '.join(others)}" if others else ""
    raise Dalle2EduError(
        f"The zoo has no {domain} {part} yet{has}: {_card_file(domain, part)} is missing."
        " Train it with `dalle2-edu train`, then `dalle2-edu zoo publish` the run."
    )


def _check_names(domain: str, part: str) -> None:
    for name in (domain, part):
        if not NAME.fullmatch(name):
            raise Dalle2EduError(
                f'"{name}" is no name for the zoo: only a to z, 0 to 9 and _ are allowed.'
            )


def _weights_file(domain: str, part: str) -> Path:
    return folder() / domain / f"{part}.safetensors"


def _card_file(domain: str, part: str) -> Path:
    return folder() / domain / f"{part}.json"


def _read_card(domain: str, part: str) -> Card:
    file = _card_file(domain, part)
    values = read_json(file)
    if not isinstance(values, dict):
        raise Dalle2EduError(
            f"The card {file} is no card: it holds a {type(values).__name__}."
        )
    wanted = {name: values[name] for name in CARD_TYPES if name in values}
    for name, value in wanted.items():
        if not isinstance(value, CARD_TYPES[name]) or isinstance(value, bool):
            raise Dalle2EduError(
                f"The card {file} is damaged: {name} can't be {value!r:.60}."
            )
    try:
        return Card(**wanted)
    except TypeError as error:  # a field is missing
        raise Dalle2EduError(
            f"The card {file} is damaged: {_one_line(error)}."
        ) from error


# what JSON must give for each field
CARD_TYPES: dict[str, Any] = {name.name: str for name in fields(Card)}
CARD_TYPES |= {"config": dict, "metrics": dict, "minutes": (int, float), "steps": int}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _read_weights(file: Path, expected: str) -> dict[str, Tensor]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise Dalle2EduError(
            f"The weights {file} can't be read: {error.strerror}."
        ) from error
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


# --- from a card to a network ---------------------------------------------------------


def model_class(name: str, file: Path) -> type[nn.Module]:
    """The class that a card names, "module:class". Raises Dalle2EduError for anything
    but a network of this package; `file` is named then.
    """
    module_name, _, class_name = name.partition(":")
    found: Any = None
    if module_name.startswith(OURS):
        try:
            found = getattr(import_module(module_name), class_name, None)
        except ImportError:
            found = None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise Dalle2EduError(
            f"The card of {file} names the model {name!r:.100}; it must be a network of this"
            f' package, such as "{OURS}unclip.prior:DiffusionPrior".'
        )
    return found


def model_name(model: type[nn.Module]) -> str:
    """How a card names a class."""
    return f"{model.__module__}:{model.__qualname__}"


def config_class(model: type[nn.Module]) -> Any:
    """The config class of a network: what the type of its constructor's `config` is."""
    found = get_type_hints(model.__init__).get("config")
    if not is_dataclass(found):
        raise Dalle2EduError(
            f"{model_name(model)} is built from no config: it can't be saved."
        )
    return found


def build(model: type[nn.Module], config: dict[str, Any], file: str) -> nn.Module:
    """The network of this class and config, with random weights. Raises Dalle2EduError,
    naming the file that the config is from, if there can't be one.
    """
    _check_sizes(config, file)
    try:
        return model(from_dict(config_class(model), config))
    except Dalle2EduError as error:
        raise Dalle2EduError(f"{file}: {error}") from error
    except (TypeError, ValueError, ArithmeticError, RuntimeError, LookupError) as error:
        reason = f"{type(error).__name__}: {_one_line(error)}"
        raise Dalle2EduError(
            f"{file}: no network has such a config ({reason})."
        ) from error


def _check_sizes(config: Mapping[str, Any], file: str) -> None:
    """No network minds an image size when it is built, only when it draws."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            _check_sizes(value, file)
        if name == "image_size" and not (type(value) is int and 1 <= value <= 4096):
            raise Dalle2EduError(
                f"{file}: image_size is {value!r:.40}; it must be 1 to 4096."
            )


def check_fit(
    module: nn.Module, tensors: Mapping[str, Tensor], file: str, stored: bool = False
) -> None:
    """Compare all names, shapes and kinds of numbers before anything is copied, so that
    no model is ever half loaded. stored: floating numbers must be in half precision, as
    in the zoo.
    """
    expected = module.state_dict()
    for name in [*expected, *tensors]:
        wanted, found = _shape(expected, name), _shape(tensors, name)
        if wanted != found:
            raise Dalle2EduError(
                f"The weights {file} don't fit the card's config: {name} should be {wanted},"
                f" the file has {found}."
            )
    for name, tensor in tensors.items():
        _check_numbers(expected[name], tensor, f"The weights {file}: {name}", stored)


def _check_numbers(expected: Tensor, found: Tensor, where: str, stored: bool) -> None:
    floating = expected.is_floating_point()
    if floating != found.is_floating_point() or (
        not floating and expected.dtype != found.dtype
    ):
        raise Dalle2EduError(f"{where} is {_kind(found)}, not {_kind(expected)}.")
    if floating and stored and found.dtype != torch.float16:
        raise Dalle2EduError(f"{where} is {_kind(found)}; the zoo keeps float16.")
    if not torch.isfinite(found).all():
        raise Dalle2EduError(f"{where} holds a number that is nan or infinite.")


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shape(tensors: Mapping[str, Tensor], name: str) -> str:
    return str(tuple(tensors[name].shape)) if name in tensors else "absent"


_loaded: dict[str, str] = {}  # "emoji/prior" -> SHA-256, of this process


def loaded() -> dict[str, str]:
    """The parts loaded so far, "emoji/prior" -> SHA-256: a notebook's page keeps it, so
    that a page that shows weights of yesterday is found out.
    """
    return dict(sorted(_loaded.items()))


# --- one CLIP for all -----------------------------------------------------------------


def fits(domain: str, part: str) -> bool:
    """Whether the zoo has this part, and the part learned from the CLIP that is in the
    zoo.
    """
    known_cards = cards()
    part_card = known_cards.get((domain, part))
    clip = known_cards.get(("shared", "clip"))
    return part_card is not None and clip is not None and part_card.clip == clip.sha256


def check_same_clip(domain: str, parts: Sequence[str] = ("prior", "decoder")) -> None:
    """Raise unless those of these parts that the zoo has learned the embeddings of the
    CLIP that is in the zoo.
    """
    known_cards = cards()
    clip = known_cards.get(("shared", "clip"))
    for part in parts:
        learned = known_cards.get((domain, part))
        if learned and clip and learned.clip != clip.sha256:
            raise Dalle2EduError(
                f"The zoo's {domain} {part} learned from another CLIP ({learned.clip[:12]}) than"
                f" the zoo's ({clip.sha256[:12]}): train and publish {learned.recipe} again."
            )


# --- saving ---------------------------------------------------------------------------


def save(domain: str, part: str, module: nn.Module, card: Card) -> Path:
    """Put a trained module into the zoo with its card; returns the path of the weights.

    The card's model, config and sha256 are filled in here. Each file appears whole or
    not at all. Raises Dalle2EduError for a name that can't be, a network of another
    package, a weight that half precision can't hold, or a failed write.
    """
    _check_names(domain, part)
    weights, described = _weights_file(domain, part), _card_file(domain, part)
    name = model_name(type(module))
    model_class(name, weights)  # what could not be loaded again is not saved
    content = tensors_to_bytes(_halved(module))
    config: Any = module.config
    digest = hashlib.sha256(content).hexdigest()
    card = replace(card, model=name, config=asdict(config), sha256=digest)
    coming = described.with_name(f".{part}.json.next")
    with _disk_errors(weights.parent):
        try:
            # a full disk is noticed before the weights
            atomic_write(coming, _card_text(card))
            atomic_write(weights, content)
            # If the power fails here, the old card's hash differs: `load` refuses.
            coming.replace(described)
        finally:
            coming.unlink(missing_ok=True)
    return weights


def quote(domain: str, part: str, metrics: dict[str, float]) -> Card:
    """Add an evaluation's numbers to a card, rounded to four digits after the point;
    the weights stay as they are.
    """
    old = card(domain, part)
    rounded = {name: round(value, 4) for name, value in metrics.items()}
    new = replace(old, metrics={**old.metrics, **rounded})
    with _disk_errors(folder() / domain):
        atomic_write(_card_file(domain, part), _card_text(new))
    return new


def _card_text(card: Card) -> bytes:
    return (json.dumps(asdict(card), indent=2, ensure_ascii=False) + "\n").encode()


def _halved(module: nn.Module) -> dict[str, Tensor]:
    """Every floating tensor in half precision; copies, as safetensors refuses tensors
    that share memory.
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


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise Dalle2EduError(f"Could not write into {target}: {reason}.") from error
