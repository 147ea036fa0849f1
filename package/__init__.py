"""Neural networks as NumPyro models: maximum likelihood, MAP and the posterior are three answers to one density.

Import from `flatprior.models`, `flatprior.inference`, `flatprior.tables` and `flatprior.estimators`.
"""

__version__ = "0.1.0"
