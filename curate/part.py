"""What every part of Winnow is.

A part is one class in one file. The lists that name the parts (`curate.parts.STAGES`, `ADAPTERS` ...) are plain Python;
config, tables, pools, `winnow models` and the documentation are made of what the parts in them declare.
"""

from typing import ClassVar


class Part:
    """Anything that a list of Winnow, or a plugin, may hold. name: in configs and on the command line."""

    name: ClassVar[str]
