"""The flags that name a data set, for every command that reads images: each written once, with its help."""

from __future__ import annotations

from typing import Annotated

import typer

Dataset = Annotated[str, typer.Option(help="fractals, a folder, a name of `synco-hub data list`, or a Hub id.")]
DataDir = Annotated[str | None, typer.Option(help="Folder of the data set's original files.")]
DatasetId = Annotated[str | None, typer.Option(help="Another copy on the Hub, for a name of `synco-hub data list`.")]
Config = Annotated[str | None, typer.Option(help="Configuration of the data set on the Hub.")]
Revision = Annotated[str | None, typer.Option(help="Commit, branch or tag of the data set on the Hub.")]
ImageColumn = Annotated[str | None, typer.Option(help="Column of the images, where it is not obvious.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of the labels, where it is not obvious.")]
