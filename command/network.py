"""The models and the methods that the command offers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..inference.methods import Method
    from ..models.heads import Observation
    from ..models.model import Model
    from ..tables.target import Target

METHODS = {
    "mle": "MLE",
    "map": "MAP",
    "mclmc": "posterior",
    "nuts": "NUTS",
    "ensemble": "ensemble",
    "laplace": "Laplace",
    "prior": "prior",
}
"""Name of a method on the command line -> its name in the table."""
SCALES = ("learned", "network")
"""The scale, or concentration, of y: one number that is learned, or an output of the network."""
DRAWS = 500
"""The default number of draws of NUTS and Laplace."""


def network(target: "Target", widths: tuple[int, ...], scale: str) -> "Model":
    """Return the model of a target, with fan-in priors and the observation that suits it.

    Args:
        target: the target.
        widths: the hidden units per layer.
        scale: one of `SCALES`: what the scale, or concentration, of y is.
    """
    from ..models import MLP, Model, fan_in

    return Model(MLP(widths), observation(target, scale), fan_in(1.0))


def in_words(model: Any, scale: str) -> str:
    """Return a network of the command in words."""
    widths = ", ".join(map(str, model.network.widths))
    layers = f"{widths} hidden units ({model.network.activation})" if widths else "linear"
    of_y = type(model.observation).__name__
    has_scale = of_y not in ("Bernoulli", "Categorical", "Ordinal", "Poisson", "Exponential", "ZeroInflated")
    parameter = {"learned": "one learned scale", "network": "a scale that is an output of the network"}[scale]
    return (
        f"Model: {layers}; {of_y}" + (f" with {parameter}" if has_scale else "") + "; prior fan_in(1.0); features and "
        "numbers of y are standardised."
    )


def observation(target: "Target", scale: str) -> "Observation":
    """Return the observation of a likelihood."""
    import numpyro.distributions as dist

    from .. import models

    of_y = "network" if scale == "network" else dist.HalfNormal(1.0)  # in standard deviations of y
    shape = {"concentration": "network"} if scale == "network" else {}
    match target.likelihood:
        case "bernoulli":
            return models.Bernoulli()
        case "categorical":
            return models.Categorical(len(target.classes))
        case "ordinal":
            return models.Ordinal(len(target.classes))
        case "student-t":
            return models.StudentT(scale=of_y)
        case "poisson":
            return models.Poisson()
        case "negative-binomial":
            return models.NegativeBinomial(**shape)
        case "zero-inflated-poisson":
            return models.ZeroInflated(models.Poisson())
        case "zero-inflated-negative-binomial":
            return models.ZeroInflated(models.NegativeBinomial(**shape))
        case "gamma":
            return models.Gamma(**shape)
        case "log-normal":
            return models.LogNormal(of_y)
        case "weibull":
            return models.Weibull(**shape)
        case "exponential":
            return models.Exponential()
        case "beta":
            return models.Beta(**shape)
    return models.Normal(of_y)


def method(name: str, draws: int | None = None) -> "Method":
    """Return a method with the settings of the command.

    The posterior is drawn by `MCLMC`, whose chains settle on networks for which those of NUTS need longer trajectories
    than its 255 steps per draw, which let it end in a minute.

    Args:
        name: a key of `METHODS`.
        draws: the number of draws; None is the default of the method.
    """
    from ..inference import MAP, MCLMC, MLE, NUTS, Ensemble, Laplace, Prior

    match name:
        case "mclmc":
            return MCLMC() if draws is None else MCLMC(num_samples=draws)
        case "nuts":
            return NUTS(num_warmup=draws or DRAWS, num_samples=draws or DRAWS, max_tree_depth=8)
        case "laplace":
            return Laplace(num_samples=draws or DRAWS)
        case "ensemble":
            return Ensemble()
        case "prior":
            return Prior()
    return MLE() if name == "mle" else MAP()
