"""The one family of errors that a user can meet. A message names the thing at fault and the next step."""

import traceback
from typing import Self


class ForewordError(Exception):
    """Something outside the code is wrong: a file, a value, a machine. Ends a command with exit code 1."""

    exit_code = 1

    def at(self, where: str) -> Self:
        """The same error, told `where` it came up: whatever else it carries stays."""
        self.args = (f"{where}: {self}", *self.args[1:])
        return self


class UsageError(ForewordError):
    """The call itself is wrong: an unknown option, name or combination. Ends a command with exit code 2."""

    exit_code = 2


class GateError(ForewordError):
    """Nothing is broken, but what was asked for is refused: it is worse than what it would replace. Exit code 3."""

    exit_code = 3


class ForewordWarning(UserWarning):
    """Something is not as it was asked for, and the work goes on: a text that was cut to its budget, for one."""


def clear_frames(error: BaseException) -> None:
    """Free what the frames of an error hold, a failed step's tensors among it; where it was raised can still be told.

    For an error that is kept: it would keep them until a collection, which a GPU's want of memory does not set off.
    """
    traceback.clear_frames(error.__traceback__)
