"""The codec itself: torch and einops, nothing that opens a file."""
