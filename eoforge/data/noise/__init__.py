"""Label noise with known truth: seeded injectors for scene labels and pixel maps, and derived versions of a table."""
