"""`python -m pipelines.inspector inspect DATASET`."""

import typer

from pipelines.inspector.commands import register

app = typer.Typer(add_completion=False)
register(app)
app()
