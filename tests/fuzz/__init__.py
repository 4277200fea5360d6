"""Damaged input for every reader of bytes or text: it must give a correct value or a `CodecctlError`, soon."""
