"""Read MIMIC-CXR's reports by patient and study, from the published zip file or its unpacked folder."""

import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import IO

from cxr_dist.errors import UserError, out_of_files, require
from cxr_dist.files import open_regular
from cxr_dist.format.report_sections import MIMIC_SECTIONS, cut_sections

_LONGEST = 2**22  # bytes; the longest published report has fewer than 20,000
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
            with open_regular(folder / _name(study)) as file:
                return _content(file)
        except (FileNotFoundError, NotADirectoryError):
            return None

    try:
        return _cut(read, studies)
    except OSError as error:
        raise out_of_files(error) or UserError(
            f"a report in {folder.name} cannot be read ({error.strerror}): repair the folder, or name the published zip"
        ) from None


def _from_zip(path: Path, studies: Iterable[StudyIds]) -> dict[StudyIds, dict[str, str]]:
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            members = {"/".join(PurePosixPath(member.filename).parts[-3:]): member for member in archive.infolist()}

            def read(study: StudyIds) -> bytes | None:
                member = members.get(_name(study))
                if member is None:
                    return None
                with archive.open(member) as report:
                    return _content(report)

            return _cut(read, studies)
    except UserError:
        raise
    except Exception as error:  # a damaged zip can raise BadZipFile, zlib.error, EOFError, NotImplementedError, ...
        raise out_of_files(error) or UserError(
            f"{path.name} cannot be read as a zip: download it again, or name the unpacked folder"
        ) from None


def _content(file: IO[bytes]) -> bytes:
    content = file.read(_LONGEST + 1)
    require(len(content) <= _LONGEST, f"a report has more than {_LONGEST} bytes: expected MIMIC-CXR's published files")
    return content


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
