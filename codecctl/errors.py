"""What can go wrong in a way that a user can mend. Every message names the file or key and the way out, on one line."""


class CodecctlError(Exception):
    """The work could not be done: exit code 1."""

    exit_code = 1


class UsageError(CodecctlError):
    """The command was asked for something it cannot mean: exit code 2."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration does not fit the schema: the message starts with the file or the dotted key."""


class Interrupted(CodecctlError):
    """A signal stopped the work in good order; the message says how to go on. Exit code 128 + signal."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class Told(CodecctlError):
    """Another process of the same work has said what went wrong; this one only ends, with that exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another process has told why")
        self.exit_code = exit_code
