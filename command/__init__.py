"""The command ``flatprior``: compare, fit, predict and explain networks of your own table."""

from .main import main

__all__ = ["main"]
