"""What can go wrong besides the command itself."""


class NestedError(Exception):
    """The command could not be run, or its end is not known; the text says why and ends with what was last seen."""


class MachineLost(NestedError):
    """The emulated machine stands still, so that not even its own clock ends the command; or its kernel has panicked."""


class TimedOut(NestedError):
    """The command ran for longer than it may, and was ended."""
