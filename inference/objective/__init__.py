"""Questions to a model, for which no fit is needed.

- `explain` names its cost function, term by term, and checks that it is so.
- `likelihood_curve` and `likelihood_surface` compute the likelihood along one or two weights or directions.
"""

from .explanation import Explanation, explain
from .likelihood import Likelihood, likelihood_curve, likelihood_surface
from .terms import Term

__all__ = ["Explanation", "Likelihood", "Term", "explain", "likelihood_curve", "likelihood_surface"]
