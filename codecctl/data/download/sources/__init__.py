"""Kinds of places that corpora are downloaded from. A new kind is one file here and one row below."""

from typing import Annotated

from pydantic import Field

from codecctl.data.download.sources.http import HttpSource
from codecctl.data.download.sources.hub import HubSource
from codecctl.data.download.sources.manual import ManualSource
from codecctl.data.download.sources.mdc import MdcSource

Source = Annotated[
    HttpSource  # files on web servers
    | HubSource  # datasets on the Hugging Face hub
    | MdcSource  # archives of the Mozilla Data Collective
    | ManualSource,  # what a person has to fetch
    Field(discriminator="kind"),
]
