"""The losses by themselves: torch is all they import."""
