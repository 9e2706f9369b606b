"""Submits FLARE's NumPy FedAvg over zero-work clients: ``python job.py --kit ADMIN_KIT --model FILE ...``.

Prints the job's id.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.fuel.flare_api.flare_api import new_secure_session


def main() -> None:
    """Writes the model, exports the job, submits it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kit", required=True)
    parser.add_argument("--elements", type=int, required=True)
    parser.add_argument("--silos", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--held", default="")
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    model = given.folder / "model.npy"
    np.save(model, np.zeros(given.elements, np.float32))
    recipe = NumpyFedAvgRecipe(
        name="zero",
        initial_ckpt=str(model),
        min_clients=given.silos,
        num_rounds=given.rounds,
        train_script=str(Path(__file__).with_name("silo.py")),
        train_args=f"--folder {given.folder} --held {given.held}" if given.held else f"--folder {given.folder}",
    )
    with tempfile.TemporaryDirectory() as folder:
        recipe.export(folder)
        session = new_secure_session("admin@nvidia.com", given.kit)
        try:
            print(session.submit_job(str(Path(folder) / "zero")))
        finally:
            session.close()


if __name__ == "__main__":
    main()
