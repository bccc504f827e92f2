"""The command line: one file per verb. Heavy imports wait inside the verbs, so that --help answers at once."""

from foreword.cli.app import main

__all__ = ["main"]
