"""By which keyword transformers' functions take a cache: `cache` since 5.24, `past_key_values` before."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

_NAMES = ("cache", "past_key_values", "layer_past")


@cache
def cache_argument(function: Callable[..., Any]) -> str | None:
    """The keyword of a function, such as `type(model).forward`; None where it takes no cache."""
    known = inspect.signature(function).parameters
    return next((name for name in _NAMES if name in known), None)


def cache_option(function: Callable[..., Any], value: Any) -> dict[str, Any]:
    """`value` as the keyword argument by which the function takes a cache; nothing where it takes none."""
    name = cache_argument(function)
    return {} if name is None else {name: value}
