"""One metric, or a family of metrics, a file; `table` and `perceptual` list them."""
