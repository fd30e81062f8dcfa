"""The one exception that means: what was asked for can't be done as asked."""


class RequestError(ValueError):
    """A wrong request; the message is one line with what was wrong, the value and what would do.

    The command line prints it and exits with status 2.
    """
