"""The command line, one file per verb. Knows jobs and terminals; knows no models.

Heavy imports are inside the verbs, so that --help answers at once.
"""

from foreword.cli.app import main

__all__ = ["main"]
