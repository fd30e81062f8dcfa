"""The exceptions that are for people to read."""


class RequestError(ValueError):
    """A wrong request; the message is one line with what was wrong, the value and what would do.

    The command line prints it and exits with status 2.
    """


class UnfinishedError(Exception):
    """A run can't go to its end; the message says why, what of it is kept, and how to go on.

    The command line prints it and exits with status 1.
    """


def first_line(error: BaseException) -> str:
    """The first line of an exception's message."""
    return str(error).partition("\n")[0]
