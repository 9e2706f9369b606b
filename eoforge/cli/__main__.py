"""``python -m eoforge.cli``: the same command for places without the console script (torchrun, pods)."""

from eoforge.cli import entry

if __name__ == "__main__":
    entry()
