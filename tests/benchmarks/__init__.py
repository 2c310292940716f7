"""What is measured by hand: python -m tests.benchmarks.NAME."""

import raydaa.own_process  # noqa: F401  as the command line's processes
