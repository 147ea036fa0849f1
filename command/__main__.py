"""``python -m flatprior.command``."""

from .main import main

main()
