"""The one error that a user's input can cause."""


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one line with three parts: the value found, what was expected,
    and the remedy. Binaries print it to stderr and exit with code 2.
    """
