"""Files: whole or absent; and what a file system need not be able to do."""

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from maskrestore.inference.output.locks import alone, join
from maskrestore.utils import files


@pytest.fixture(autouse=True)
def _nothing_told_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_gone_without", set())


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    files.write_atomically(path, b"old")

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", broken)
    with pytest.raises(OSError, match="No space left"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def failing(function: Callable[..., object], number: int, folders: bool) -> Callable[..., object]:
    """A system call that fails, or does so on folders only."""

    def call(file: int, *more: object) -> object:
        descriptor = file if isinstance(file, int) else file.fileno()
        if not folders or stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        return function(file, *more)

    return call


class TestFsync:
    """Folders, and on some file systems files as well, that cannot be synced."""

    @pytest.mark.parametrize("folders", [True, False])
    @pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EBADF"])
    def test_it_is_gone_without_and_told_once(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        name: str,
        folders: bool,
    ) -> None:
        number = getattr(errno, name)
        monkeypatch.setattr(os, "fsync", failing(os.fsync, number, folders))
        for content in (b"one", b"two"):
            files.write_atomically(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == b"two"
        (line,) = capsys.readouterr().err.splitlines()
        assert str(tmp_path) in line
        assert os.strerror(number) in line

    @pytest.mark.parametrize("name", ["EIO", "ENOSPC", "EDQUOT", "EROFS"])
    @pytest.mark.parametrize("folders", [True, False])
    def test_lost_data_is_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folders: bool
    ) -> None:
        number = getattr(errno, name)
        monkeypatch.setattr(os, "fsync", failing(os.fsync, number, folders))
        with pytest.raises(OSError, match=os.strerror(number)):
            files.write_atomically(tmp_path / "file", b"one")

    @pytest.mark.parametrize("name", ["EACCES", "EISDIR"])
    def test_a_folder_that_cannot_be_opened(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        name: str,
    ) -> None:
        """One may write to it, but not list it; or the system opens no folders."""

        def refuse(*_: object) -> int:
            raise OSError(getattr(errno, name), "no", str(tmp_path))

        monkeypatch.setattr(os, "open", refuse)
        files.write_atomically(tmp_path / "file", b"one")
        assert f"{tmp_path}: fsync is not possible there (no)" in capsys.readouterr().err

    def test_one_of_several_processes_tells(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setattr(os, "fsync", failing(os.fsync, errno.EINVAL, True))
        files.write_atomically(tmp_path / "file", b"one")
        assert capsys.readouterr().err == ""


class TestLocks:
    """File systems without flock."""

    @pytest.mark.parametrize("name", ["ENOSYS", "ENOLCK", "EOPNOTSUPP", "ENOTSUP", "EINVAL"])
    def test_all_go_on_with_one_warning(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        name: str,
    ) -> None:
        number = getattr(errno, name)
        monkeypatch.setattr(fcntl, "flock", failing(fcntl.flock, number, False))
        assert not files.is_locked(tmp_path)
        with files.lock(tmp_path), alone(tmp_path), join(tmp_path, "this command", tmp_path):
            assert not files.is_locked(tmp_path)
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{tmp_path}: its file system has no locks ({os.strerror(number)})" in line
        assert "nobody else is kept away" in line

    def test_those_who_only_read_say_nothing(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (tmp_path / "lock").touch()
        monkeypatch.setattr(fcntl, "flock", failing(fcntl.flock, errno.ENOLCK, False))
        assert not files.is_locked(tmp_path)
        assert capsys.readouterr().err == ""

    def test_those_who_only_read_need_no_right_to_the_lock(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr("builtins.open", refuse)
        assert not files.is_locked(tmp_path)

    @pytest.mark.parametrize("name", ["EIO", "ESTALE"])
    def test_a_broken_file_system_is_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setattr(fcntl, "flock", failing(fcntl.flock, getattr(errno, name), False))
        with pytest.raises(OSError, match=os.strerror(getattr(errno, name))):
            files.lock(tmp_path)

    def test_two_may_write_the_same_file_where_nobody_is_kept_away(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The tables of an output folder, at the end of two parts; one writes beside the other."""
        monkeypatch.setattr(fcntl, "flock", failing(fcntl.flock, errno.ENOSYS, False))
        path = tmp_path / "summary.csv"
        with alone(tmp_path):
            mine = files.name_beside(path)
        monkeypatch.setattr(os, "getpid", lambda: 1)
        assert files.name_beside(path) != mine
