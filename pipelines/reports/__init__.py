"""What people look at: quality of an ingestion, training curves, retrieval. Self-contained HTML, and Markdown."""
