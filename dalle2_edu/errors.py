"""One error for everything the reader can mend.

A mistake of input (a prompt that is empty, a weight file that was cut off, a recipe
that does not exist) deserves one clear line that says what was wrong and what to do,
and no traceback. Code raises `Dalle2EduError`; the command line prints its message and
leaves with exit code 2; a notebook shows it as the last line of the cell.
"""


class Dalle2EduError(ValueError):
    """A mistake that the reader can mend; its message is one line: what was wrong, and
    what to do.
    """
