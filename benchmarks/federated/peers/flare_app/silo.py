"""A FLARE client that sends back what it receives, one more.

``answered-<site>-<round>`` in the run's folder says that it has; sites named in ``held`` wait in the last round for a
file ``go``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import nvflare.client as flare


def main() -> None:
    """All rounds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--held", default="")
    given = parser.parse_args()
    flare.init()
    site = flare.get_site_name()
    while flare.is_running():
        model = flare.receive()
        if model is None:
            return
        last = model.current_round == model.total_rounds - 1
        while last and site in given.held.split(",") and not (given.folder / "go").exists():
            time.sleep(0.1)
        (given.folder / f"answered-{site}-{model.current_round}").touch()
        params = {name: values + 1 for name, values in model.params.items()}
        flare.send(flare.FLModel(params_type="FULL", params=params, meta={"NUM_STEPS_CURRENT_ROUND": 1}))


if __name__ == "__main__":
    main()
