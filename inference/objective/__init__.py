"""The objective of a model, before any fit.

- `explain` names the cost function term by term, and checks each term against an independent implementation.
- `likelihood_curve` and `likelihood_surface` compute the likelihood along one or two weights or directions.
"""

from .explanation import Explanation, explain
from .likelihood import Likelihood, likelihood_curve, likelihood_surface
from .terms import Term

__all__ = ["Explanation", "Likelihood", "Term", "explain", "likelihood_curve", "likelihood_surface"]
