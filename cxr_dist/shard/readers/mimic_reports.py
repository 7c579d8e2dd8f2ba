"""Read MIMIC-CXR's reports by patient and study, from the published zip file or its unpacked folder."""

import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from cxr_dist.errors import UserError
from cxr_dist.format.report_sections import MIMIC_SECTIONS, cut_sections

StudyIds = tuple[str, str]
"""(subject_id, study_id), each of digits only."""


def read_sections(path: Path, studies: Iterable[StudyIds]) -> dict[StudyIds, dict[str, str]]:
    """The sections of each study's report, all empty for a study without one; raises UserError if no study has one.

    `path` is mimic-cxr-reports.zip, or a folder that contains p10/p10000032/s50414267.txt, directly or in `files`.
    """
    wanted = dict.fromkeys(studies)
    if path.is_dir():
        texts = _from_folder(path / "files" if (path / "files").is_dir() else path, wanted)
    else:
        texts = _from_zip(path, wanted)
    if wanted and not texts:
        raise UserError(
            f"none of {len(wanted)} studies has a report in {path.name}: expected MIMIC-CXR's p10/p10000032/"
            "s50414267.txt there; set the recipe's reports, or reports: null for images without reports"
        )
    none = dict.fromkeys(MIMIC_SECTIONS, "")
    return {study: texts.get(study, none) for study in wanted}


def _from_folder(folder: Path, studies: Iterable[StudyIds]) -> dict[StudyIds, dict[str, str]]:
    def read(study: StudyIds) -> bytes | None:
        try:
            return (folder / _name(study)).read_bytes()
        except FileNotFoundError:
            return None

    return _cut(read, studies)


def _from_zip(path: Path, studies: Iterable[StudyIds]) -> dict[StudyIds, dict[str, str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {"/".join(PurePosixPath(member.filename).parts[-3:]): member for member in archive.infolist()}

            def read(study: StudyIds) -> bytes | None:
                member = members.get(_name(study))
                return None if member is None else archive.read(member)

            return _cut(read, studies)
    except (zipfile.BadZipFile, OSError):
        raise UserError(
            f"{path.name} cannot be read as a zip: download it again, or name the unpacked folder"
        ) from None


def _name(study: StudyIds) -> str:
    patient, number = study
    return f"p{patient[:2]}/p{patient}/s{number}.txt"


def _cut(read: Callable[[StudyIds], bytes | None], studies: Iterable[StudyIds]) -> dict[StudyIds, dict[str, str]]:
    contents = ((study, read(study)) for study in studies)
    return {
        study: cut_sections(content.decode("utf-8", errors="replace"))
        for study, content in contents
        if content is not None
    }
