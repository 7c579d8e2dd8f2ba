"""EXPORT/SHA256SUMS: the sha256 of every file of an exported model but its card, which people may edit."""

from pathlib import Path

from cxr_dist.errors import UserError, require
from cxr_dist.files import read_regular, sha256_of

SUMS, CARD = "SHA256SUMS", "README.md"
AGAIN = "copy the folder again, or export it again"


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS, in the format of sha256sum, for all files but the model card."""
    lines = [f"{sha256_of(folder / name)}  {name}\n" for name in _files_in(folder)]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def _files_in(folder: Path) -> list[str]:
    """The paths in the folder that SHA256SUMS lists: no hidden ones, such as those of git, which nothing reads."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()]
    seen = [path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)]
    return sorted(set(seen) - {SUMS, CARD})


def check_sums(folder: Path, *needed: str, unread: str) -> None:
    """Raise UserError unless the folder has every listed file with its sha256, and these are listed.

    Only the presence of the file `unread` is checked.
    """
    try:
        lines = read_regular(folder / SUMS).decode("utf-8").splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError):
        raise UserError(f"{SUMS} in {folder} is missing or damaged: {AGAIN}") from None
    for name in (*needed, *sums):
        if name not in sums or not (folder / name).is_file():
            raise UserError(f"{name} of the exported model is missing: {AGAIN}")
        if name != unread and sha256_of(folder / name) != sums[name]:
            raise UserError(f"{name} of the exported model does not have its sha256: {AGAIN}")


def check_no_other_files(folder: Path) -> None:
    """Raise UserError for a file that `write_sums` did not list; SHA256SUMS must have been checked."""
    listed = {line.split("  ", 1)[1] for line in (folder / SUMS).read_text(encoding="utf-8").splitlines()}
    others = [name for name in _files_in(folder) if name not in listed]
    require(
        not others,
        f"{others[:1]} is in the exported folder {folder}, but not in its {SUMS}: move it elsewhere, or {AGAIN}",
    )
