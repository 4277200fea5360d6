"""Training: losses, one update, the loop around it, and what a run keeps on disk."""
