"""Archives of the charts: complete, described for Artifact Hub, signed, and refused once they are changed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from helm_python import Chart, HelmError, verify

from scripts import chart_package
from tests.charts import support
from tests.charts.support import CHARTS

NAMES = ("compression", "console", "eoforge", "eoforge-dev", "federation", "prediction", "retrieval")
KEY = "throw-away <charts@eoforge.example>"


@pytest.fixture(scope="module")
def keyrings(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Secret and public keyring of a key that lives as long as these tests."""
    gpg = shutil.which("gpg")
    if gpg is None:
        pytest.skip("no gpg here to make a signing key with")
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)

    def run(*arguments: str) -> bytes:
        command = [gpg, "--homedir", str(home), "--batch", "--passphrase", "", "--pinentry-mode", "loopback"]
        return subprocess.run([*command, *arguments], check=True, capture_output=True).stdout

    run("--quick-generate-key", KEY, "rsa2048", "sign", "never")
    secret, public = home / "secret.gpg", home / "public.gpg"
    secret.write_bytes(run("--export-secret-keys"))
    public.write_bytes(run("--export"))
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)
    return secret, public


def test_every_chart_is_packaged_signed_and_installs_alone(keyrings: tuple[Path, Path], tmp_path: Path) -> None:
    secret, public = keyrings
    arguments = ["--destination", str(tmp_path), "--key", "throw-away", "--keyring", str(secret)]
    assert chart_package.main([*arguments, "--source", "https://code.example/eoforge"]) == 0
    archives = {path.name.removesuffix("-0.1.0.tgz"): path for path in tmp_path.glob("*.tgz")}
    assert tuple(sorted(archives)) == NAMES
    for path in archives.values():
        assert KEY in " ".join(verify(path, public)["signed_by"])
    with Chart.load(archives["eoforge"]) as chart:
        files = chart.render(support.values_of("minio"), name=support.RELEASE, namespace=support.NAMESPACE)
    whole = [(support.label(o), o["spec"]) for o in support.objects(files) if o["kind"] == "InferenceService"]
    assert whole == [
        (support.label(o), o["spec"]) for o in support.scenario("minio") if o["kind"] == "InferenceService"
    ]
    with archives["retrieval"].open("ab") as changed:
        changed.write(b"x")
    with pytest.raises(HelmError):
        verify(archives["retrieval"], public)


def test_a_key_that_is_not_there_is_an_error(
    keyrings: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--destination", str(tmp_path), "--key", "nobody", "--keyring", str(keyrings[0])]
    assert chart_package.main(arguments) == 1
    assert "not packaged" in capsys.readouterr().err


@pytest.mark.parametrize("name", [*NAMES, "eoforge-common"])
def test_the_metadata_says_what_a_catalogue_shows(name: str) -> None:
    found = yaml.safe_load((CHARTS / name / "Chart.yaml").read_text())
    assert found["icon"].startswith("data:image/svg+xml;base64,")
    assert found["home"].startswith(chart_package.PLACEHOLDER)
    assert found["sources"]
    assert found["maintainers"]
    assert found["annotations"]["artifacthub.io/license"] == "Apache-2.0"
    images = yaml.safe_load(found["annotations"].get("artifacthub.io/images", "[]"))
    if name != "eoforge-common":
        assert images
    for image in images:
        assert image["image"].startswith("eoforge/") is (name != "eoforge-dev")
        assert name == "eoforge-dev" or image["image"].endswith(f":{found['appVersion']}")
