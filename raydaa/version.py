"""The version of raydaa."""

__version__ = "0.1.0"
