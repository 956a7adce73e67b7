"""Where the footage and the datasets of the torture lie: on local disk, or in a bucket of a server that runs here."""

from __future__ import annotations

import shutil
from pathlib import Path


class Disk:
    """Folders below one. `url(name)` is what a command is given, `mirror(name)` a local folder with the same files."""

    name = "disk"
    environment: dict[str, str] = {}  # noqa: RUF012  of the commands

    def __init__(self, root: Path) -> None:
        self.root = root

    def url(self, name: str) -> str:
        return str(self.root / name)

    def upload(self, folder: Path, name: str) -> None:
        """Copies, with the times of the files."""
        shutil.copytree(folder, self.root / name)

    def mirror(self, name: str, to: Path) -> Path:
        return self.root / name

    def remove(self, name: str) -> None:
        shutil.rmtree(self.root / name, ignore_errors=True)

    def close(self) -> None: ...
