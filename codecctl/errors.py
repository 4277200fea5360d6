"""Errors that a user can fix. Every message names the file or key and what to do, on one line."""


class CodecctlError(Exception):
    """The task failed: exit code 1."""

    exit_code = 1


class UsageError(CodecctlError):
    """The arguments are wrong: exit code 2."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration does not fit the schema: the message starts with the file or the dotted key."""


class Interrupted(CodecctlError):
    """A signal stopped the task cleanly; the message says how to continue. Exit code 128 + signal."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class ReportedElsewhere(CodecctlError):
    """Another rank already reported the error; this process only ends with that exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another process has reported the error")
        self.exit_code = exit_code
