"""Configs are frozen dataclasses of plain values, so that a model can be rebuilt from the JSON
beside its weights.

`asdict` turns a config into JSON; `from_dict` is its inverse: it rebuilds nested configs and
turns JSON's lists back into tuples."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from dalle2_edu.errors import Dalle2EduError

Config = TypeVar("Config")


def from_dict(config_class: type[Config], values: dict[str, Any]) -> Config:
    """Rebuild a config of `config_class` from the dict that `dataclasses.asdict` made (or JSON
    made of it).

    Raises Dalle2EduError for a field that the class does not have.
    """
    hints = get_type_hints(config_class)
    known = {field.name for field in fields(config_class)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - known):
        raise Dalle2EduError(
            f"{config_class.__name__} has no field {', '.join(unknown)}; known:"
            f" {', '.join(sorted(known))}."
        )
    return config_class(
        **{name: _rebuild(hints[name], value) for name, value in values.items()}
    )


def _rebuild(hint: Any, value: Any) -> Any:
    if is_dataclass(hint) and isinstance(value, dict):
        return from_dict(hint, value)  # type: ignore[arg-type]
    return tuple(value) if isinstance(value, list) else value
