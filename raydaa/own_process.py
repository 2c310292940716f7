"""Imported first by every process that is raydaa's own: the command line, and workers.

What is set here is nobody else's business. A notebook or a program that imports raydaa is not one of these: there it is
a guest (`raydaa.guest`).
"""

import gc

from raydaa.guest import let_threads_sleep

# Imports make a million objects that stay, and by default Python looks through them again and again for what is left
# over: a fifth of the time that imports take.
gc.set_threshold(100_000)

let_threads_sleep()
