"""The part of the cleanlab row in cleanlab's environment: ``python peer_script.py QUESTION.npz ANSWER.npz``."""

from __future__ import annotations

import sys

import numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class
from cleanlab.multilabel_classification.rank import get_label_quality_scores_per_class
from cleanlab.rank import get_label_quality_scores


def main() -> None:
    """Reads labels and probabilities, writes issues and scores."""
    with np.load(sys.argv[1]) as found:
        labels, probabilities, single = found["labels"], found["probabilities"], bool(found["single"])
    if single:
        given = labels.argmax(axis=1)
        issues = find_label_issues(given, probabilities, n_jobs=1)
        score = get_label_quality_scores(given, probabilities)
    else:
        given = [np.flatnonzero(row).tolist() for row in labels]
        issues = find_multilabel_issues_per_class(given, probabilities, n_jobs=1)
        score = get_label_quality_scores_per_class(given, probabilities)
    np.savez(sys.argv[2], issues=np.asarray(issues, dtype=bool), score=np.asarray(score, dtype=np.float64))


if __name__ == "__main__":
    main()
