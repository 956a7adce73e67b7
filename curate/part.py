"""What every part of Winnow is.

A part is one class in one file. The lists of parts (`curate.parts.STAGES`, `ADAPTERS` ...) are plain Python; config,
tables, pools, `winnow models` and the documentation are derived from the declarations of the parts in them.
"""

from typing import ClassVar


class Part:
    """Base class of everything that a list of Winnow, or a plugin, may hold. name: in configs and on the command line."""

    name: ClassVar[str]
