"""What the job did: videos, failures by reason, time by stage, footage by kind."""

from pipelines.inspector.panel import Panel


class JobFacts(Panel):
    name, title, area, without_clips = "facts", "What the job did", "left", True
