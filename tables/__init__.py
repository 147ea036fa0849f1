"""From tables to numbers, and the same for new rows.

- `Encoder`: features from the columns of a data frame: numbers, dates, texts, missing values. What was done to each
  column is a table (`Encoder.description`), and is saved as JSON.
- `Target`: the target as numbers or as codes of classes, and the likelihood that suits its values.
"""

from .encoder import Encoder
from .target import Target

__all__ = ["Encoder", "Target"]
