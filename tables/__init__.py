"""From tables to numbers, and the same for new rows.

- `Encoder`: features from the columns of a data frame: numbers, dates, texts, missing values. What was done to each
  column is a table (`Encoder.description`), and is saved as JSON.
"""

from .encoder import Encoder

__all__ = ["Encoder"]
