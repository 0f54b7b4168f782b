"""The recipes of containers/: no image is built, what they name is held to be there."""

import os
import re
import subprocess
import sys
import sysconfig
from fnmatch import fnmatch
from pathlib import Path

import pytest
from forked import ROOT

FOLDER = ROOT / "containers"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
DEFINITION = (FOLDER / "maskrestore.def").read_text()
INSTALL = FOLDER / "install.sh"
PROGRAMS = ("train.py", "evaluate.py", "restore.py", "export.py", "launch/submit.py")
PROGRAMS += ("launch/report.py", "shards/write.py", "benchmarks/__main__.py")


def lines(instruction: str) -> list[list[str]]:
    """The words of each line of the Dockerfile with this instruction."""
    return [line.split()[1:] for line in DOCKERFILE.splitlines() if line.startswith(instruction)]


def is_sent(name: str) -> bool:
    """Whether .dockerignore lets a file of the checkout through; its last rule that fits counts."""
    sent = True
    for rule in (ROOT / ".dockerignore").read_text().splitlines():
        if not rule or rule.startswith("#"):
            continue
        pattern = rule.removeprefix("!").removeprefix("**/")
        parents = [name, *(str(parent) for parent in Path(name).parents)]
        if any(fnmatch(part, pattern) or Path(part).name == pattern for part in parents):
            sent = rule.startswith("!")
    return sent


def test_both_recipes_install_the_same_on_the_same_image() -> None:
    [[base]] = lines("FROM")
    assert f"From: {base}\n" in DEFINITION
    assert ["sh", "containers/install.sh", '"$CUDA"', '"$INDEX"'] in lines("RUN")
    assert 'sh containers/install.sh "{{ CUDA }}" "{{ INDEX }}"' in DEFINITION
    for text in (DOCKERFILE, DEFINITION):
        defaults = re.findall(r"^(?:ARG| +)\s*(CUDA|INDEX)=(\w+)$", text, re.MULTILINE)
        assert defaults == [("CUDA", "13"), ("INDEX", "none")]


def test_what_they_copy_is_there_and_sent() -> None:
    copied = [word for words in lines("COPY") for word in words[:-1] if word != "."]
    files = re.search(r"%files\n(.*?)\n\n", DEFINITION, re.DOTALL)
    assert files
    copied += [line.split()[0] for line in files[1].splitlines()]
    assert len(copied) == 6
    for name in (*copied, *PROGRAMS, "maskrestore/data/png.py", "configs/demo.yaml"):
        assert (ROOT / name).is_file(), name
        assert is_sent(name), name
    kept_out = (".git/HEAD", ".venv/bin/python", "runs/x/result.json", "data/a.tar", "tests/x.py")
    assert not any(map(is_sent, (*kept_out, "maskrestore/data/__pycache__/png.pyc")))


@pytest.mark.parametrize("program", PROGRAMS)
def test_where_the_code_is_not_installed_programs_find_it(program: str) -> None:
    """As in the images, whose packages are the lock's alone; -S leaves ours out here."""
    found = [word for words in lines("ENV") for word in words if word.startswith("PYTHONPATH=")]
    assert found == ["PYTHONPATH=/opt/maskrestore"]
    assert 'export PYTHONPATH="$PWD' in DEFINITION
    paths = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])
    done = subprocess.run(
        [sys.executable, "-S", program, "--help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_nobody_is_root_and_words_are_programs() -> None:
    assert lines("USER") == [["65534:65534"]]
    assert lines("ENTRYPOINT") == [['["python3"]']]
    assert 'exec python3 "$@"' in DEFINITION


@pytest.mark.parametrize("cuda", ["12", "13"])
def test_the_lock_of_a_cuda_has_a_torch_built_for_it(cuda: str) -> None:
    found = re.search(rf"^{cuda}(?: \| cpu)?\) lock=(\S+) ;;$", INSTALL.read_text(), re.MULTILINE)
    assert found
    lock = (ROOT / found[1]).read_text()
    assert set(re.findall(r"^nvidia-cudnn-cu(\d+)==", lock, re.MULTILINE)) == {cuda}
    entries = re.findall(r"^[\w.-]+==.*?(?=^\S|\Z)", lock, re.MULTILINE | re.DOTALL)
    assert len(entries) > 50
    assert all("--hash=sha256:" in entry for entry in entries)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "CUDA=: write 12, 13 or cpu"),
        (["11"], "CUDA=11: write 12, 13 or cpu"),
        (["cpu"], "CUDA=cpu: give INDEX=ADDRESS too"),
        (["cpu", "none"], "CUDA=cpu: give INDEX=ADDRESS too"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_done(words: list[str], told: str) -> None:
    done = subprocess.run(
        ["/bin/sh", INSTALL, *words], capture_output=True, text=True, env={"PATH": ""}
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr


def test_without_cuda_nothing_of_it_is_installed_but_all_else(tmp_path: Path) -> None:
    """install.sh for CPUs, with stand-ins that change nothing and say what they were asked for."""
    asked = tmp_path / "asked"
    for name in ("apt-get", "rm", "python3"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho {name} "$@" >>{asked}\n')
        program.chmod(0o755)
    words = ["/bin/sh", INSTALL, "cpu", "index-of-cpus"]
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    subprocess.run(words, check=True, cwd=ROOT, env={"PATH": path, "TMPDIR": str(tmp_path)})
    lock = (ROOT / "requirements.txt").read_text()
    entry = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)
    versions, kept = (
        dict(entry.findall(lock)),
        dict(entry.findall((tmp_path / "without-cuda.txt").read_text())),
    )
    left_out = versions.keys() - kept.keys()
    assert {"torch", "torchvision", "triton", "nvidia-nccl-cu13", "cuda-toolkit"} <= left_out
    assert {"torch-fidelity", "torchmetrics", "deepspeed"} <= kept.keys()
    assert all(re.match("torch(vision)?$|triton$|nvidia-|cuda-", name) for name in left_out)
    torch = [f"{name}=={versions[name]}" for name in ("torch", "torchvision")]
    assert f"--require-hashes --no-deps -r {tmp_path}/without-cuda.txt\n" in asked.read_text()
    assert f"--index-url index-of-cpus {' '.join(torch)}\n" in asked.read_text()
