"""The inspector: a page in the browser that shows what a dataset holds, what a selection keeps of it, and why."""
