"""The command ``flatprior``: one network, three answers, on a table of your own."""

from .main import main

__all__ = ["main"]
