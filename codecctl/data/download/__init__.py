"""Public corpora: recipes, and downloads that are whole or not there at all."""
