"""What a person can put right: one line each that names the thing, the reason and the fix."""


class DataError(Exception):
    """Data that cannot be trained on."""


class RunError(Exception):
    """A run that cannot be begun, resumed, or read."""
