"""Configs are frozen dataclasses of plain values, so that a model can be rebuilt from
the JSON beside its weights.

`asdict` turns a config into JSON; `from_dict` is its inverse: it rebuilds nested
configs, turns JSON's lists back into tuples, and refuses a value of another type than
the field's.
"""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dalle2_edu.errors import Dalle2EduError

Config = TypeVar("Config")


def from_dict(config_class: type[Config], values: dict[str, Any]) -> Config:
    """Rebuild a config of `config_class` from the dict that `dataclasses.asdict` made
    (or JSON made of it).

    Raises Dalle2EduError for a field that the class does not have, or a value that is
    none for its field.
    """
    name = config_class.__name__
    if not isinstance(values, dict):
        raise Dalle2EduError(f"{name} can't be made from {values!r:.60}.")
    hints = get_type_hints(config_class)
    known = sorted(field.name for field in fields(config_class))  # type: ignore[arg-type]
    if unknown := sorted(map(str, set(values) - set(known))):
        raise Dalle2EduError(
            f"{name} has no field {', '.join(unknown)}; known: {', '.join(known)}."
        )
    rebuilt = {}
    for field, value in values.items():
        rebuilt[field] = _rebuild(hints[field], value)
        if not _fits(hints[field], rebuilt[field]):
            raise Dalle2EduError(f"{name}.{field} can't be {value!r:.60}.")
    return config_class(**rebuilt)


def _rebuild(hint: Any, value: Any) -> Any:
    if is_dataclass(hint) and isinstance(value, dict):
        return from_dict(hint, value)  # type: ignore[arg-type]
    return tuple(value) if isinstance(value, list) else value


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value is of a field's type."""
    origin, choices = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(choice, value) for choice in choices)
    if origin is Literal:
        return value in choices
    if origin is tuple:
        members = choices[0] if choices else Any
        alike = choices[1:] == (...,) and isinstance(value, tuple)
        if alike:
            return all(_fits(members, member) for member in value)
        fixed = isinstance(value, tuple) and len(value) == len(choices)
        return fixed and all(map(_fits, choices, value))
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, (int, float))
    return (
        isinstance(value, origin or hint) if isinstance(origin or hint, type) else True
    )
