"""Commands that are killed at random moments and started again: nothing lost, nothing wrong, nothing left behind."""
