"""Datasets on the Hugging Face hub: which files a revision has, and where. The bytes come through our own fetcher.

The hub's client resumes within one call only and may return a half-empty folder when the hub is out of reach; its tree,
though, tells the size and hash of every file, which is what a download is checked against.
"""

from __future__ import annotations

import fnmatch
import os
import re

import httpx2

from codecctl.data.digest import Checksum
from codecctl.data.fetch import RemoteFile
from codecctl.data.recipes import HubSource
from codecctl.data.web import Address, BrokenError, RefusedError, fixed

_COMMIT = re.compile(r"[0-9a-f]{40}")


def list_hub(source: HubSource, *, revision: str | None = None) -> tuple[str, list[RemoteFile]]:
    """The commit, and the files of it that the source's patterns name. Raises `RefusedError`, `BrokenError`."""
    import huggingface_hub as hub
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    token = hub.get_token()
    api = hub.HfApi(endpoint=endpoint, token=token or False)
    try:
        commit = revision or source.revision
        if not _COMMIT.fullmatch(commit):
            commit = str(api.dataset_info(source.repo, revision=commit, timeout=30).sha)
        tree = [
            entry
            for entry in api.list_repo_tree(source.repo, recursive=True, revision=commit, repo_type="dataset")
            if isinstance(entry, hub.RepoFile) and any(fnmatch.fnmatchcase(entry.path, shape) for shape in source.files)
        ]
    except OfflineModeIsEnabled:
        raise RefusedError(f"{source.repo}: HF_HUB_OFFLINE is set; unset it") from None
    except HfHubHTTPError as error:
        raise _refusal(source.repo, error.response.status_code) from None
    except (httpx2.HTTPError, OSError):
        raise BrokenError(f"{source.repo}: the hub cannot be reached") from None
    if not tree:
        raise RefusedError(f"{source.repo}: revision {commit} has no files like {', '.join(source.files)}")
    authorization = f"Bearer {token}" if token else None

    def remote(entry: hub.RepoFile) -> RemoteFile:
        url = hub.hf_hub_url(source.repo, entry.path, repo_type="dataset", revision=commit, endpoint=endpoint)
        checksum = Checksum("sha256", entry.lfs.sha256) if entry.lfs else Checksum("git-sha1", entry.blob_id)
        return RemoteFile(entry.path, (fixed(Address(url, authorization)),), n_bytes=entry.size, checksums=(checksum,))

    return commit, [remote(entry) for entry in tree]


def is_commit(revision: str) -> bool:
    return _COMMIT.fullmatch(revision) is not None


def _refusal(repo: str, code: int) -> RefusedError | BrokenError:
    if code in (401, 403):
        return RefusedError(f"{repo}: the hub answers {code}: it wants a token, or its terms accepted", gate=True)
    if code == 404:
        return RefusedError(
            f"{repo}: the hub knows no such dataset or revision, or hides it from this token", gate=True
        )
    if code in (408, 429) or code >= 500:
        return BrokenError(f"{repo}: the hub answers {code}")
    return RefusedError(f"{repo}: the hub answers {code}")
