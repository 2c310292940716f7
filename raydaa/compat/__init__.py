"""What is done to other people's libraries behind their backs: each with its reason, and what it is worth.

Used by whoever imports the library in question.
"""
