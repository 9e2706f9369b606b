"""cleanlab as a row of the table: out-of-sample probabilities, its detection, and a training on what it cleaned.

cleanlab is licensed under the AGPL and is no dependency of ours: ``peer_script.py`` runs in an environment of its own.
What it finds is used as its guides say: samples of one label are left out, labels of a scene (each class is a problem
of its own) are turned over. Its cost is that of all trainings and of its own process.
"""

from __future__ import annotations

import resource
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.label_noise.cell import Training, fit, outcome
from benchmarks.label_noise.noise import Shift, corrupted
from benchmarks.label_noise.samples import Samples
from eoforge.data.noise.scene import Noise
from eoforge.methods.noise_robust.settings import NoiseSettings
from eoforge.nn.seeds import derive_seed

NAME = "cleanlab"
FOLDS = 5
_SCRIPT = Path(__file__).with_name("peer_script.py")


def version(python: Path | None) -> str | None:
    """Version of cleanlab in another environment, or None."""
    if python is None:
        return None
    code = "import importlib.metadata as m; print(m.version('cleanlab'))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def run(samples: Samples, noise: Noise | Shift, seed: int, training: Training, python: Path) -> dict[str, Any]:
    """Figures of one cell, as :func:`benchmarks.label_noise.cell.run` gives them."""
    rows = samples.rows("train")
    noisy = corrupted(samples, rows, noise)
    began = time.process_time()
    probabilities = out_of_sample(samples, rows, noisy, seed, training)
    issues, score, other = _ask(python, samples, noisy, probabilities)
    if samples.target == "single":
        kept, labels = rows[~issues], noisy[~issues]
    else:
        kept, labels = rows, noisy ^ issues
    nets, _ = fit(samples, kept, labels, "plain", seed, NoiseSettings(), training)
    seconds = time.process_time() - began + other
    suspicion, rate = 1 - torch.from_numpy(score), NoiseSettings().rate
    figures = outcome(samples, rows, noisy, nets[0].eval(), noise, seed, seconds, suspicion, rate)
    return {"objective": NAME, **figures}


@torch.no_grad()
def _probabilities(samples: Samples, rows: np.ndarray, net: torch.nn.Module) -> np.ndarray:
    logits = net.eval().view(samples.images[torch.from_numpy(rows)]).logits
    chances = logits.softmax(dim=1) if samples.target == "single" else logits.sigmoid()
    return chances.double().numpy()


def out_of_sample(samples: Samples, rows: np.ndarray, labels: np.ndarray, seed: int, training: Training) -> np.ndarray:
    """Probabilities ``[N, L]`` of networks that did not see the sample, by cross-validation."""
    order = np.random.default_rng(derive_seed("folds", seed)).permutation(len(rows))
    found = np.zeros(labels.shape)
    for fold in range(FOLDS):
        held = order[fold::FOLDS]
        rest = np.setdiff1d(order, held)
        nets, _ = fit(samples, rows[rest], labels[rest], "plain", seed, NoiseSettings(), training)
        found[held] = _probabilities(samples, rows[held], nets[0])
    return found


def _ask(
    python: Path, samples: Samples, labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Issues, scores (low for wrong labels) and CPU seconds of cleanlab."""
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder) / "question.npz", Path(folder) / "answer.npz"
        np.savez(question, labels=labels, probabilities=probabilities, single=samples.target == "single")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([str(python), str(_SCRIPT), str(question), str(answer)], check=True, timeout=300)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        with np.load(answer) as found:
            return found["issues"], found["score"], seconds
