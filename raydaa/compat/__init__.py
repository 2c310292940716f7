"""Names of other libraries that they promise nobody: each with the version it was seen in, why it is used, and what it
gains. Nothing outside asks for one; `tests/test_compat.py` says in seconds which of them a new version has moved.

Used by everybody above `store`.
"""
