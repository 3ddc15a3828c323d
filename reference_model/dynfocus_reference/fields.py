"""Plain values into a frozen dataclass: every key known, every number a number."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")
KINDS: dict[str, tuple[type, ...]] = {"float": (float,), "int": (int,), "bool": (bool,), "str": (str,)}


def build(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """An instance of a dataclass from what a file says.

    Args:
        kind: A dataclass.
        values: Its fields; those without a default must be there.
        where: The file, for messages.

    Raises:
        ValueError: unknown or missing keys, or values of another type, named.
    """
    who = f"{kind.__name__}{f' in {where!r}' if where else ''}"
    if not isinstance(values, Mapping):
        raise ValueError(f"{who}: expected keys and values, got {values!r}.")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    missing = sorted(name for name, field in fields.items() if _required(field) and name not in values)
    if unknown or missing:
        told = [f"got {unknown}"] * bool(unknown) + [f"missing {missing}"] * bool(missing)
        raise ValueError(f"{who}: expected keys among {sorted(fields)}, {' and '.join(told)}.")
    return kind(**{key: _typed(who, key, value, str(fields[key].type)) for key, value in values.items()})


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _typed(who: str, key: str, value: Any, wanted: str) -> Any:
    """Numbers as numbers: YAML reads 1e-3 as text. Types that are not in `KINDS` are left to the dataclass."""
    kind = wanted.removesuffix(" | None")
    if kind not in KINDS or (value is None and kind != wanted):
        return value
    if kind == "float" and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    if isinstance(value, KINDS[kind]) and (kind == "bool" or not isinstance(value, bool)):
        return value
    raise ValueError(f"{who}: expected {key} to be {wanted}, got {value!r}.")
