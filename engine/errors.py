"""The one error that a user can cause."""


class InputError(ValueError):
    """Something given from outside cannot be used: a file, a size, a name.

    The message is one line: the value received, then the cure. Commands print it to stderr and exit with code 2.
    """
