"""Tools for people who work on the repository; nothing at run time imports them."""
