"""Reports as self-contained HTML and Markdown: quality of an ingestion, training curves, retrieval."""
