"""Errors for the user."""


class UserError(Exception):
    """An error that the user can correct; the message states what is wrong and what to do.

    The command line prints it as one paragraph, without a traceback, and exits with `status`.
    """

    status = 2
