"""Step of the audit of training labels: suspected errors as a table, with a page."""

# mypy: disable-error-code="valid-type,call-arg,empty-body,return-value"
# kfp reads named outputs from a NamedTuple call in the annotation, which mypy takes for an invalid type.

from typing import NamedTuple

from kfp.dsl import HTML, Dataset, Metrics, Output

from pipelines.components._component import component


@component
def audit_labels(
    bundle: str,
    table: str,
    version: str,
    issues: str,
    report: Output[HTML],
    metrics: Output[Metrics],
    lineage: Output[Dataset],
) -> NamedTuple("Audited", [("issues_table", str), ("issues_version", str)]):
    """Audit of the training labels of a table; a repeated step writes the same issues again.

    Args:
        bundle: Run bundle that classifies.
        table: Lance table of patches.
        version: Version of the table, a derived one as well; empty for the newest.
        issues: Lance table for the issues; "{bundle}" becomes the short id of the bundle.

    Returns:
        issues_table: Table of issues, with the id of the bundle.
        issues_version: Version of the table of issues.
        report: Issues by class and country with the likeliest errors, one self-contained page.
        metrics: Number of audited patches, issues and expected errors; precision and recall if the noise is known.
        lineage: JSON with table of issues, version, rows and schema.
    """
    import tempfile
    from pathlib import Path

    from eoforge.bundle import load_bundle
    from eoforge.methods.audit import REPORT, audit
    from eoforge.storage.addresses import TableRef, open_table
    from pipelines.lineage import codes_uri, write_table_lineage

    target = codes_uri(issues, bundle)
    ref = TableRef(table, int(version) if version else None)
    with tempfile.TemporaryDirectory() as folder:
        made = audit(load_bundle(bundle), ref, target, report=folder, replace=True)
        Path(report.path).write_text((Path(folder) / REPORT).read_text())
    for name in ("patches", "labels", "expected_wrong", "precision", "recall"):
        if (value := getattr(made, name)) is not None:
            metrics.log_metric(name, value)
    written = open_table(made.issues).version
    lineage.metadata.update(write_table_lineage(lineage.path, made.issues, written))
    return (made.issues, str(written))
