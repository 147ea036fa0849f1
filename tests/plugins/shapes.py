"""A plugin of pytest: the shapes that the library's annotations state are checked at every call under test.

jaxtyping's import hook decorates every function. Here it leaves those alone whose annotations state no shape: what is
wrong with other arguments is for the library's own errors to say, and a warning names the line of the user by counting
calls.
"""

from collections.abc import Callable
from functools import partial
from inspect import isfunction
from typing import Any, get_args

import jaxtyping
from jaxtyping import AbstractArray, install_import_hook, jaxtyped

PACKAGES = ["flatprior.models", "flatprior.inference"]


def states_a_shape(annotation: Any) -> bool:
    """Whether jaxtyping made it, or a part of it."""
    is_array = isinstance(annotation, type) and issubclass(annotation, AbstractArray)
    is_tree = getattr(annotation, "__module__", None) == "jaxtyping" and hasattr(annotation, "leaftype")
    return is_array or is_tree or any(map(states_a_shape, get_args(annotation)))


def checked(function: Any = None, *, typechecker: Callable[..., Any]) -> Any:
    """As `jaxtyping.jaxtyped`, for functions that state shapes; anything else as it is."""
    if function is None:
        return partial(checked, typechecker=typechecker)
    if isfunction(function) and any(map(states_a_shape, function.__annotations__.values())):
        return jaxtyped(function, typechecker=typechecker)
    return function


def pytest_load_initial_conftests() -> None:
    jaxtyping.jaxtyped = checked  # what the hook writes above each function
    install_import_hook(PACKAGES, "beartype.beartype")
