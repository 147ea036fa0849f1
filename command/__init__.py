"""The command ``flatprior``: fit one network to your own table by several methods, and compare them."""

from .main import main

__all__ = ["main"]
