"""Datasets on the Hugging Face hub. The hub's client lists the files; they are fetched like all others.

The client itself resumes within one call only, and may return a half-empty folder when the hub cannot be reached. Its
listing, though, states the size and hash of every file, which downloads are checked against.
"""

from __future__ import annotations

import fnmatch
import os
import re
from typing import ClassVar, Literal

from pydantic import Field

from codecctl.data.download.remote import (
    Address,
    Checksum,
    PermanentError,
    RemoteFile,
    TransientError,
    is_archive,
    without_suffix,
)  # fmt: skip
from codecctl.data.download.sources.base import BaseSource, Listing, Query

_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubSource(BaseSource):
    """Files of a dataset on the Hugging Face hub."""

    has_versions: ClassVar[bool] = True

    kind: Literal["huggingface"]
    repo: str
    revision: str = Field("main", description="a commit where it is known; else the first one downloaded is kept to")
    files: tuple[str, ...] = Field(min_length=1, description="patterns for paths in the repository")
    bytes: int | None = Field(None, gt=0, description="of all of them, roughly")

    @property
    def origin(self) -> str:
        return f"huggingface.co/datasets/{self.repo}"

    @property
    def n_bytes(self) -> int | None:
        return self.bytes

    @property
    def has_archives(self) -> bool:
        return any(map(is_archive, self.files))

    def list_files(self, query: Query) -> Listing:
        """The files of one commit that match the patterns."""
        import httpx2
        import huggingface_hub as hub
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        is_pinned = _COMMIT.fullmatch(self.revision) is not None
        commit = query.pin or (self.revision if is_pinned else query.first_pin or self.revision)
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        token = hub.get_token()
        api = hub.HfApi(endpoint=endpoint, token=token or False)
        try:
            if not _COMMIT.fullmatch(commit):
                commit = str(api.dataset_info(self.repo, revision=commit, timeout=30).sha)
            tree = api.list_repo_tree(self.repo, recursive=True, revision=commit, repo_type="dataset")
            entries = [entry for entry in tree if isinstance(entry, hub.RepoFile) and self._matches(entry.path)]
        except OfflineModeIsEnabled:
            raise PermanentError(f"{self.repo}: HF_HUB_OFFLINE is set; unset it") from None
        except HfHubHTTPError as error:
            raise _failure(self.repo, error.response.status_code) from None
        except (httpx2.HTTPError, OSError):
            raise TransientError(f"{self.repo}: the hub cannot be reached") from None
        if not entries:
            raise PermanentError(f"{self.repo}: revision {commit} has no files like {', '.join(self.files)}")

        def remote(entry: hub.RepoFile) -> RemoteFile:
            url = hub.hf_hub_url(self.repo, entry.path, repo_type="dataset", revision=commit, endpoint=endpoint)
            return RemoteFile(
                entry.path,
                (Address(url, f"Bearer {token}" if token else None),),
                n_bytes=entry.size,
                checksums=(Checksum("sha256", entry.lfs.sha256) if entry.lfs else Checksum("git-sha1", entry.blob_id),),
                into=without_suffix(entry.path) if is_archive(entry.path) else None,
            )

        return Listing(tuple(map(remote, entries)), commit, keep_pin=query.pin is None and not is_pinned)

    def _matches(self, path: str) -> bool:
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in self.files)


def _failure(repo: str, code: int) -> PermanentError | TransientError:
    if code in (401, 403):
        return PermanentError(f"{repo}: the hub answers {code}: it needs a token, or accepted terms", is_gate=True)
    if code == 404:
        return PermanentError(
            f"{repo}: the hub has no such dataset or revision, or hides it from this token", is_gate=True
        )
    if code in (408, 429) or code >= 500:
        return TransientError(f"{repo}: the hub answers {code}")
    return PermanentError(f"{repo}: the hub answers {code}")
