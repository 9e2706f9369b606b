"""Generated from proto/ by ``python -m scripts.generate_proto``. Do not edit."""
