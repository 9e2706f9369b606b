"""Archives in, Lance tables out: names, labels, bands, readers, ingestion, loaders and the synthetic archive."""
