"""Where the footage and the datasets of the torture lie: on local disk, or in a bucket of a server that runs here."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.object_storage import KEYS, Storage

BUCKET = "torture"


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


class Bucket:
    """A bucket of an S3 server of its own, some of whose requests fail. seed: of the faults; None: none fail."""

    name = "bucket"
    share = 0.05  # of the requests fail

    def __init__(self, seed: int | None) -> None:
        import boto3

        self.seed, self.storage = seed, Storage()
        self.environment = self.storage.environment
        self.storage.bucket(BUCKET)
        self.client = boto3.client(
            "s3",
            endpoint_url=self.storage.endpoint,
            region_name=KEYS["AWS_REGION"],
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )

    def url(self, name: str) -> str:
        return f"s3://{BUCKET}/{name}"

    def upload(self, folder: Path, name: str) -> None:
        """Faults begin after it."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.client.put_object(
                    Bucket=BUCKET, Key=f"{name}/{path.relative_to(folder).as_posix()}", Body=path.read_bytes()
                )
        self.storage.faults(self.seed, self.share)

    def mirror(self, name: str, to: Path) -> Path:
        """Read by a client that is not ours, without faults."""
        self.storage.faults(None)
        folder = to / name
        shutil.rmtree(folder, ignore_errors=True)
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{name}/"):
            for found in page.get("Contents", ()):
                path = to / found["Key"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self.client.get_object(Bucket=BUCKET, Key=found["Key"])["Body"].read())
        self.storage.faults(self.seed, self.share)
        return folder

    def remove(self, name: str) -> None: ...

    def close(self) -> None:
        self.storage.close()
