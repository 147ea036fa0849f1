"""``python -m flatprior.command``."""

import sys

from .main import main

sys.exit(main())
