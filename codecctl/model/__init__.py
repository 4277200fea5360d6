"""The codec itself: torch alone, nothing that opens a file."""
