"""Errors for the user."""

import errno


class UserError(Exception):
    """An error that the user can correct; the message states what is wrong and what to do.

    The command line prints it as one paragraph, without a traceback, and exits with `status`.
    """

    status = 2


class Skipped(UserError):
    """Raised after all usable files were processed; the message lists the others."""

    status = 3


def root_user_error(error: BaseException | None) -> UserError | None:
    """Returns the UserError that caused an error, which Hydra's `instantiate` wraps, or None.

    Denied access to a file becomes one.
    """
    while error is not None and not isinstance(error, UserError):
        if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) and error.filename:
            return UserError(
                f"{error.filename}: {error.strerror}. Change its rights, or name another place: paths.runs=, "
                "paths.artifacts=, output=."
            )
        error = error.__cause__
    return error


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, or the error's type if it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)
