"""Web console: pages for people over the services and tables."""
