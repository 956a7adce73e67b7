"""Funnel: the filters in order, and what each leaves."""

from pipelines.inspector.panel import Panel


class Funnel(Panel):
    name, title, area = "funnel", "Funnel", "left"
