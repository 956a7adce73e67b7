"""How curated clips lie on the disk: one format a file, all of them in `pipelines.formats.formats.FORMATS`."""
