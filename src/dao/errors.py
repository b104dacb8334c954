"""Errors that are the user's to mend: the command line prints them as one line and exits with code 2."""


class InputError(ValueError):
    """Bad input (a formula, file, cell, checkpoint, recipe key or flag); the message says what is wrong and where."""
