"""Making what a plan lacks: processes, checks before them, and what they are given."""
