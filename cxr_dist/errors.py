"""The one kind of exception whose message is meant for the user: what was found, expected, and to do.

Messages never hold report text, patient ids or names of source images; shard names, indices, counts,
classes and column names are allowed.
"""

EXIT_REFUSED = 2
"""Exit status after a UserError: the same command would fail again."""
EXIT_STOPPED = 75
"""Exit status of a run that saved and is not finished (EX_TEMPFAIL): the same command goes on."""


class UserError(ValueError):
    """A mistake in the input, the configuration or the environment that the user can mend."""
