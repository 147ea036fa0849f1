"""Names of other libraries that they do not document as public: a release that moves one breaks this module alone."""

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn  # type: ignore[attr-defined]
from numpyro.primitives import _PYRO_STACK

__all__ = ["_PYRO_STACK", "ClosedJaxpr", "Jaxpr", "JaxprEqn"]
