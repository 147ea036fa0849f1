"""From tables to numbers, and the same for new rows.

- `read_csv`: a file of separated values as a data frame of numbers, dates and texts. Separator, encoding, header,
  decimal commas and more are recognised and described.
- `Encoder`: features from the columns of a data frame: numbers, dates, texts, missing values. What was done to each
  column is a table (`Encoder.description`), and is saved as JSON.
- `Target`: the target as numbers or as codes of classes, and the likelihood that suits its values.

What was learned is plain data, saved as JSON. (The encoders of scikit-learn and skrub can only be pickled, and skrub's
`TableVectorizer` reads neither currencies, percent signs and decimal commas nor dates with points.)
"""

from .encoder import Encoder
from .reading import read_csv
from .target import Target

__all__ = ["Encoder", "Target", "read_csv"]
