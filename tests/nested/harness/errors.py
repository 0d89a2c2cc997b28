"""What can go wrong besides the command itself."""


class NestedError(Exception):
    """The command could not be run, or its end is not known; the text says why and ends with what was last seen."""


class Hung(NestedError):
    """The emulated machine stands still: not even its own clock, which would have ended the command, goes on."""


class TimedOut(NestedError):
    """The command ran for longer than it may, and was ended."""
