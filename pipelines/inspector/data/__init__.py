"""The dataset that is looked at, in memory: columns, filters, likeness, stills and clips. Knows nothing of the page."""
