"""``python -m raydaa`` is ``raydaa``."""

from raydaa.cli import process

if __name__ == "__main__":
    process()
