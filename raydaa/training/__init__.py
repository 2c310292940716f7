"""One training run, its engines, and the Ray workers that carry it."""
