"""Models on disk: a fit, and all that new rows of a table need to be predicted from it.

The file is that of `Fit.save`, NetCDF, which `Fit.load` and ArviZ read, with one more attribute: JSON. It contains no
code.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pandas as pd

from ..tables.cells import Format
from ..tables.encoder import Encoder
from ..tables.reading import Sheet
from ..tables.target import Target
from .network import network

if TYPE_CHECKING:
    from ..inference import Fit
    from ..inference.units import Standardized

VERSION = 1
"""The version of the JSON."""
ATTRIBUTE = "flatprior_table"


@dataclass(frozen=True)
class About:
    """What is known of a table and its model beside the fit."""

    title: str
    """The name of the file of the rows that were fitted."""
    target: Target
    encoder: Encoder
    formats: Mapping[str, Format]
    """How the cells of each column were read."""
    widths: tuple[int, ...]
    """The hidden units per layer."""
    scale: str
    """One of `network.SCALES`."""
    units: Mapping[str, Any]
    """The means and standard deviations of "x" and, where it is standardised, "y"."""

    @classmethod
    def of(cls, sheet: Sheet, target: Target, encoder: Encoder, scale: str, fit: "Fit") -> Self:
        """Return what is known of a fit of a standardised network."""
        standardized: Any = fit.model
        units = {"x": asdict(standardized.x[0]), **{site: asdict(of_site) for site, of_site in standardized.y}}
        widths = standardized.model.network.widths
        return cls(sheet.title, target, encoder, sheet.formats, widths, scale, units)

    @property
    def model(self) -> "Standardized":
        """The model of the fit."""
        from ..inference.units import Standardized, Units

        units = {name: Units(tuple(saved["mean"]), tuple(saved["sd"])) for name, saved in self.units.items()}
        of_y = tuple((name, of_site) for name, of_site in units.items() if name != "x")
        return Standardized(network(self.target, self.widths, self.scale), (units["x"],), of_y)

    def features(self, sheet: Sheet) -> pd.DataFrame:
        """Return the features of new rows."""
        return self.encoder.transform(sheet.frame)

    def to_json(self) -> str:
        """Return everything as JSON."""
        return json.dumps(
            {
                "version": VERSION,
                "title": self.title,
                "target": self.target.to_json(),
                "encoder": self.encoder.to_json(),
                "formats": {name: form.to_json() for name, form in self.formats.items()},
                "widths": list(self.widths),
                "scale": self.scale,
                "units": self.units,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return what `to_json` returned.

        Raises:
            ValueError: when it is of a later release.
        """
        saved = json.loads(text)
        if saved["version"] != VERSION:
            raise ValueError(f"expected version {VERSION} of a table; got {saved['version']}")
        formats = {name: Format.from_json(form) for name, form in saved["formats"].items()}
        target, encoder = Target.from_json(saved["target"]), Encoder.from_json(saved["encoder"])
        widths, scale = tuple(saved["widths"]), saved["scale"]
        return cls(saved["title"], target, encoder, formats, widths, scale, saved["units"])


def save(path: Path, fit: "Fit", about: About) -> Path:
    """Write a fit and its table to a file, atomically, and return the path."""
    from netCDF4 import Dataset

    from ..inference.files import atomic_write

    def write(file: Path) -> None:
        fit.save(file)
        text = about.to_json()
        with Dataset(file, "a") as dataset:
            dataset.setncatts({ATTRIBUTE: text, f"{ATTRIBUTE}_digest": _digest(text)})

    return atomic_write(path, write)


def load(path: Path) -> tuple["Fit", About]:
    """Return a fit and its table.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: when it is damaged, of a later release, or no model of `flatprior fit`.
    """
    from netCDF4 import Dataset

    from ..inference import Fit

    if not path.exists():
        raise FileNotFoundError(f"Expected a model that `flatprior fit --save` wrote; {path} does not exist.")
    try:
        with Dataset(path, "r") as dataset:
            text, digest = (str(dataset.getncattr(name)) for name in (ATTRIBUTE, f"{ATTRIBUTE}_digest"))
    except (OSError, AttributeError) as error:
        raise ValueError(f"{path}: expected a model that `flatprior fit --save` wrote; got another file.") from error
    if digest != _digest(text):
        raise ValueError(f"{path}: the file is damaged: its digest does not agree with its contents.")
    try:
        about = About.from_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}. Read it with the release that wrote it, or a later one.") from None
    return Fit.load(path, about.model), about


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
