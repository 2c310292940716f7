"""What test processes and their commands take of the machine; imported before torch, which reads it when it is loaded.

Several test files run at a time. Threads that spin for each other's cores make products ten times slower.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
