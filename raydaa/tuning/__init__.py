"""Which trials to run, and which of them to stop."""
