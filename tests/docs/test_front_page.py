"""README and its neighbours: short, without dead links, and their code runs."""

import contextlib
import io
import re
import shutil
import tarfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def anchors(path: Path) -> set[str]:
    """The anchors that headings of a page have on GitHub and in MkDocs, for headings of plain words."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_front_page_is_short() -> None:
    assert len(text_of("README.md").splitlines()) <= 150


def test_the_demos_last_lines_are_those_of_the_makefile() -> None:
    demo = text_of("Makefile").split("\ndemo:")[1].split("\n\n")[0]
    lines = [
        line.replace("$(DEMO)", "demo").replace("$(BIN)", ".venv/bin") for line in re.findall(r"@echo '(.*)'", demo)
    ]
    assert len(lines) == 3
    assert "\n".join(lines) + "\n```" in text_of("README.md")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_of_the_repository_and_to_their_headings(page: str) -> None:
    links = [link for link in LINK.findall(FENCE.sub("", text_of(page))) if "://" not in link]
    assert links or page in ("CHANGELOG.md", "SECURITY.md")
    for link in links:
        file, _, anchor = link.partition("#")
        assert (ROOT / file).exists(), link
        assert not anchor or anchor in anchors(ROOT / file), link


def test_every_path_of_tests_and_benchmarks_in_the_guarantees_exists() -> None:
    named = re.findall(
        r"`((?:tests|benchmarks)/[\w/.]+)`", text_of("docs/explanation/guarantees.md") + text_of("README.md")
    )
    assert len(named) > 40
    lacking = {name for name in named if not any((ROOT / f"{name}{end}").exists() for end in ("", ".py"))}
    assert lacking == set()


def test_the_pictures_of_the_front_page_are_small() -> None:
    pictures = re.findall(r"!\[.*\]\((.*)\)", text_of("README.md"))
    assert len(pictures) == 2
    assert max((ROOT / picture).stat().st_size for picture in pictures) < 200_000


def test_python_in_eight_lines_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes about 5 s if it is the first test to import torch."""
    code = re.findall(r"```python\n(.*?)```", text_of("README.md"), flags=re.DOTALL)
    assert len(code) == 1
    assert len(code[0].strip().splitlines()) <= 8
    before = ROOT / "tests" / "written_before"
    shutil.copytree(before / "export", tmp_path / "runs" / "enhanced")
    with tarfile.open(before / "weights.tar.xz") as weights:
        weights.extractall(tmp_path, filter="data")
    shutil.copytree(tmp_path / "export", tmp_path / "runs" / "enhanced", dirs_exist_ok=True)
    shutil.copy(before / "film.png", tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code[0], "README.md", "exec"), {})
    assert re.search(r"Effusion: 0\.\d{3} \(0\.\d{3} to 0\.\d{3}\)", said.getvalue())


def test_the_citation_file_has_what_the_format_requires() -> None:
    import cxr_dist

    facts = yaml.safe_load(text_of("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(facts)
    assert facts["version"] == cxr_dist.__version__
    assert f"## [{facts['version']}] - {facts['date-released']}" in text_of("CHANGELOG.md")
