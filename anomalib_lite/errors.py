"""Errors that speak to the user."""


class UserError(Exception):
    """Something the user can put right: the message says what is wrong and what to do.

    The command line prints it as one paragraph, without a traceback, and ends with `status`.
    """

    status = 2
