"""Pipeline run bundle + patches table -> suspected errors of the training labels, with a report."""

# mypy: disable-error-code="valid-type,call-arg,empty-body,return-value"
# kfp reads named outputs from a NamedTuple call in the annotation, which mypy takes for an invalid type.

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import HTML

from pipelines.components.audit_labels import audit_labels as audit_step
from pipelines.definitions.placement import place


@dsl.pipeline(
    name="eoforge-audit-labels",
    display_name="Audit training labels",
    description="List the training labels of a table that are probably wrong, for review.",
)
def audit_labels(bundle: str, table: str, issues: str, version: str = "") -> NamedTuple(
    "Audited", [("issues_table", str), ("issues_version", str), ("report", HTML)]
):
    """Pipeline of an audit of labels; `eoforge review` makes a table version from its issues, which `train` takes.

    Args:
        bundle: Run bundle that classifies.
        table: Lance table of patches.
        issues: Lance table for the issues, for example s3://lake/issues-{bundle}.lance; "{bundle}" becomes the short
            id of the bundle.
        version: Version of the table, a derived one as well; empty for the newest.

    Returns:
        issues_table: Table of issues, with the id of the bundle.
        issues_version: Version of the table of issues.
        report: Issues by class and country, with the likeliest errors.
    """
    from collections import namedtuple

    task = place(
        audit_step(bundle=bundle, table=table, version=version, issues=issues),
        cpu="8",
        memory="32Gi",
        gpu=True,
        hours=24,
    )
    return namedtuple("Audited", ["issues_table", "issues_version", "report"])(
        task.outputs["issues_table"], task.outputs["issues_version"], task.outputs["report"]
    )
