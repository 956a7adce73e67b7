"""`python -m pipelines.cli ...` is `winnow ...`."""

from pipelines.cli.app import main

main()
