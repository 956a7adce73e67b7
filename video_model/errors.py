"""What a person can put right: one line each that names the thing, the reason and the fix."""


class DataError(Exception):
    """Data that cannot be trained on."""


class RunError(Exception):
    """A run that cannot be begun, resumed, or read."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its class where it has none."""
    message = str(error).strip()
    return message.splitlines()[0] if message else type(error).__name__
