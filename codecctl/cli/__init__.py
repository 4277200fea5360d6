"""The command line: the only floor that prints, asks, or knows typer and rich."""
