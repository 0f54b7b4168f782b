"""The exceptions that end a program with a message instead of a traceback."""


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop, has saved, and can be resumed; says where."""


class ConfigError(Exception):
    """The user's mistakes in the settings, all of them, one a line, each with its remedy."""


class UserError(Exception):
    """Something else that the user can mend: a file, a folder, a checkpoint. One clear message."""
