"""The codec as `import codecctl` has it: with what it shares with models on the Hugging Face hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Self

from codecctl.errors import CodecctlError
from codecctl.export.huggingface import write_huggingface
from codecctl.inference import load
from codecctl.inference.checkpoint import Checkpoint


class Codec(load.Codec):
    """The codec for use: `Codec.load(name)` is in evaluation mode, its weights frozen, its weight norm folded."""

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, device: str = "auto") -> Self:
        """`load`, by the name that programs around `transformers` use: `owner/name` or a folder of `export --to hf`."""
        return cls.load(name_or_folder, device)

    def push_to_hub(self, name: str, *, private: bool = False) -> str:
        """Write the codec to the model repository `owner/name` on the Hugging Face hub, as `export --to hf` does, and
        make the repository if it is new; returns its address. Needs a login: `hf auth login`.

        Raises `CodecctlError` if the hub refuses it or cannot be reached.
        """
        import httpx2
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

        if self.path is None:
            raise CodecctlError("this codec was not loaded from a file; save_codec and Codec.load it first")
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            write_huggingface(Checkpoint.read(self.path), folder, name)
            try:
                hub = HfApi()
                address = hub.create_repo(name, private=private, exist_ok=True)
                message = f"codecctl, fingerprint {self.fingerprint}"
                hub.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
            except (HfHubHTTPError, HFValidationError) as error:
                refused = " ".join(str(error).split())
                raise CodecctlError(f"{name} on the Hugging Face hub: {refused}; see `hf auth login`") from None
            except (httpx2.HTTPError, OSError, OfflineModeIsEnabled):
                raise CodecctlError(f"{name} on the Hugging Face hub: the hub cannot be reached") from None
        return str(address)
