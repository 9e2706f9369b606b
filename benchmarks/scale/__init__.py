"""Search at scale: exact, Lance IVF and peers over codes that are clustered as real ones are."""
