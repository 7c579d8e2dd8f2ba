"""The one kind of exception whose message is meant for the user: what was found, expected, and to do.

Messages never hold report text, patient ids or names of source images; shard names, indices, counts,
classes and column names are allowed.
"""


class UserError(ValueError):
    """A mistake in the input, the configuration or the environment that the user can mend."""
