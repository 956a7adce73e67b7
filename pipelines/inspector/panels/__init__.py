"""The panels of the page. A panel is one folder here: its class, its script, its style, and what it computes."""

from pipelines.inspector.panels.clip import ClipDialog
from pipelines.inspector.panels.facts import JobFacts
from pipelines.inspector.panels.funnel import Funnel
from pipelines.inspector.panels.grid import ClipGrid
from pipelines.inspector.panels.labels import LabelAgreement
from pipelines.inspector.panels.take import TakeAway
from pipelines.inspector.panels.thresholds import Thresholds

PANELS = [Funnel, Thresholds, JobFacts, ClipGrid, ClipDialog, LabelAgreement, TakeAway]  # in the order of the page
