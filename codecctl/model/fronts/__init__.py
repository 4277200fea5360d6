"""The fronts of the codec: one a file, one row each in `codec.FRONTS`."""
