"""The clients of object storage, by obstore: where a service is, how long to wait for it, and what its errors mean."""

from __future__ import annotations

import importlib.util
import os
import random
import re
import time
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

from curate.base.extras import install_command
from curate.base.store.protocol import Changed, StoreError, shown

__all__ = ["SCHEMES", "Connection", "obstore"]

SCHEMES = {"s3", "s3a", "gs", "gcs", "az", "azure", "abfs", "abfss", "adl", "memory", "http", "https"}
# s of trying again: of a bucket that this process has reached before, and of one that it has not (a typing error)
PATIENCE, FIRST_PATIENCE = 120.0, 15.0
BRIEF = 10.0  # s for an answer, and of trying again, of a brief connection
PAUSE, LONGEST_PAUSE = 0.2, 10.0  # s, doubled each time
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (with boto3 installed), or AWS_SKIP_SIGNATURE=true "
    "for a public bucket",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or run gcloud auth application-default login",
    "az": "AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
}
ALIASES = {"s3a": "s3", "gcs": "gs", "azure": "az", "abfs": "az", "abfss": "az", "adl": "az"}

Found = TypeVar("Found")


class Connection:
    """A bucket as its service knows it. Credentials and endpoint are those of the service's own environment variables."""

    def __init__(self, bucket: str, brief: bool = False) -> None:
        """brief: requests, and trying them again, end after seconds."""
        self.bucket, self.brief = bucket, brief
        scheme = bucket.partition("://")[0]
        self.scheme = ALIASES.get(scheme, scheme)

    def call(self, what: Callable[[Any, int], Found], place: str, *, once: bool = False) -> Found:
        """`what(client, attempt)`, again and again with pauses where it failed for a reason that may pass.

        place: what the call is about, for messages. once: the client itself does not repeat a request, so that from the
        second attempt on the caller knows that the first may have taken effect. Raises FileNotFoundError, FileExistsError,
        Changed, StoreError.
        """
        reached = (self.bucket, _endpoint())
        known = BRIEF if self.brief else PATIENCE
        began, pause, attempt = time.monotonic(), PAUSE, 0
        while True:
            try:
                found = what(_client(self.bucket, _endpoint(), once, self.brief), attempt)
            except (FileExistsError, Changed):
                raise
            except Exception as error:
                self._refuse(error, place)
                waited = time.monotonic() - began
                if waited + pause > (known if reached in _reached else FIRST_PATIENCE):
                    raise self._unreached(error, place, known=reached in _reached) from None
            else:
                _reached.add(reached)
                return found
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause, attempt = min(2 * pause, LONGEST_PAUSE), attempt + 1

    def _refuse(self, error: Exception, place: str) -> None:
        """Raise what an error means if trying again would not help."""
        kind, text = type(error).__name__, str(error)
        if isinstance(error, StoreError):
            raise error
        if "NoSuchBucket" in text or "ContainerNotFound" in text:
            raise StoreError(
                f"{shown(place)}: there is no bucket {self.bucket}: create it, or correct the name"
            ) from None
        if kind == "PreconditionError":
            raise Changed(place) from None
        if kind == "AlreadyExistsError":
            raise FileExistsError(shown(place)) from None
        if isinstance(error, FileNotFoundError) or kind == "NotFoundError":
            raise FileNotFoundError(shown(place)) from None
        if kind == "InvalidPathError" or (isinstance(error, ValueError) and "parse path" in text):
            found = re.search(r'[pP]ath "(.*?)"', " ".join(text.split()))
            raise StoreError(
                f"{shown(self.bucket)}: the key {found[1] if found else place!r} has an empty part, a part '.' or '..', or a "
                "control character, and cannot be read: rename that object"
            ) from None
        if kind in ("PermissionDeniedError", "UnauthenticatedError"):
            raise StoreError(
                f"{shown(place)}: access is denied ({reason(error)}): check the credentials in the environment, and what "
                "they allow",
                denied=True,
            ) from None
        if "PermanentRedirect" in text or "AuthorizationHeaderMalformed" in text:
            raise StoreError(f"{shown(place)}: the bucket lies in another region: set AWS_REGION to it") from None
        if kind == "NotSupportedError" or isinstance(error, NotImplementedError):
            raise StoreError(f"{shown(place)}: this storage cannot do that ({reason(error)})") from None
        if kind in ("UnknownConfigurationKeyError", "TypeError") or "Account must be specified" in text:
            raise StoreError(f"{shown(place)}: {self._credentials()}") from None

    def _unreached(self, error: Exception, place: str, known: bool) -> StoreError:
        if not known and ("169.254.169.254" in str(error) or "metadata" in str(error)):
            return StoreError(f"{shown(place)}: {self._credentials()}")
        endpoint = f" of {_endpoint()}" if self.scheme == "s3" and _endpoint() else ""
        return StoreError(
            f"{shown(place)}: cannot be reached ({reason(error)}): check the address, the endpoint{endpoint} and the "
            "network; what is committed stays, and the same command resumes",
            transient=True,
        )

    def _credentials(self) -> str:
        return f"no credentials were found: set {CREDENTIALS.get(self.scheme, 'those of the service')}"


_reached: set[tuple[str, str]] = set()


def reason(error: Exception) -> str:
    """What a service said, in a few words: without addresses, whose queries may hold a signature."""
    text = " ".join(str(error).split("Debug source")[0].split())
    status = re.search(r"status code: (\d+ [A-Za-z ]+)", text)
    if code := re.search(r"<Code>(\w+)</Code>", text):
        return f"{status[1].strip()}, {code[1]}" if status else code[1]
    if status:
        return status[1].strip()
    if "kind: Connect" in str(error):
        return "no connection"
    if "timed out" in str(error) or "kind: Timeout" in str(error):
        return "no answer in time"
    last = re.sub(r"https?://\S+", "...", text).rpartition(" - ")[2]
    return last[:120] or type(error).__name__


def obstore() -> Any:
    """The package, or a StoreError that says how to install it."""
    if importlib.util.find_spec("obstore") is None:
        raise StoreError(f"the package obstore, for object storage, is not installed: {install_command('obstore')}")
    import obstore as package

    return package


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


@lru_cache(maxsize=256)
def _client(bucket: str, endpoint: str, once: bool, brief: bool) -> Any:
    """The client of a bucket, one for each process. endpoint: of S3. once: requests are not repeated. brief: see BRIEF."""
    obstore()
    from obstore.store import from_url

    scheme = bucket.partition("://")[0]
    if scheme == "memory":
        return _memory(bucket)
    options: dict[str, Any] = {
        # A whole shard goes in one request; a read must not wait long for bytes that do not come.
        "client_options": {"connect_timeout": "5s"} | _patience(once, brief),
        "retry_config": {
            "max_retries": 0 if once or brief else 3,
            "retry_timeout": timedelta(seconds=30),
            "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
        },
    }
    if scheme == "http" or (scheme.startswith("s3") and endpoint.startswith("http://")):
        options["client_options"]["allow_http"] = True
    if scheme.startswith("s3"):
        options |= {"endpoint": endpoint} if endpoint else {}
        options |= _profile()
    return from_url(bucket.replace("s3a://", "s3://").replace("gcs://", "gs://"), **options)


def _patience(once: bool, brief: bool) -> dict[str, str]:
    if brief:
        return {"timeout": f"{BRIEF:g}s"}
    return {"timeout": "900s"} if once else {"timeout": "300s", "read_timeout": "30s"}


@lru_cache(maxsize=256)
def _memory(bucket: str) -> Any:
    from obstore.store import MemoryStore

    return MemoryStore()


def _profile() -> dict[str, Any]:
    """Credentials of ~/.aws, profiles and single sign-on, which boto3 can read; {} where the environment names others."""
    named = ("AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE", "AWS_WEB_IDENTITY_TOKEN_FILE")
    if any(os.environ.get(name) for name in named) or importlib.util.find_spec("boto3") is None:
        return {}
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        return {"credential_provider": Boto3CredentialProvider()}
    except ValueError:  # it found none
        return {}
    except Exception as error:  # a profile that is not there, a login that has expired
        raise StoreError(
            f"the profile {os.environ.get('AWS_PROFILE', 'default')} gives no credentials "
            f"({type(error).__name__}): correct AWS_PROFILE, or log in again"
        ) from None
