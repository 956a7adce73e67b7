"""A panel of one's own in the inspector's page: the ten longest clips."""

from pipelines.inspector.panel import Panel


class Longest(Panel):
    name, title, area = "longest", "Longest clips", "left"
    script = """
        import { get, h } from "./dom.js";

        export async function mount(root) {
          const clips = await get("/api/longest");
          root.append(h("h2", {}, "Longest clips"), ...clips.map((clip) => h("p", {}, clip)));
        }
    """

    def routes(self):
        return {"GET /api/longest": self.longest}

    def longest(self) -> list[str]:
        columns = self.loaded().columns
        return [columns.id(int(place)) for place in columns.order("seconds")[:-11:-1]]


PARTS = [Longest]
