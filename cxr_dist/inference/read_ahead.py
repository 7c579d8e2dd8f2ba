"""Read the images and reports of many cases in threads, one group of cases ahead of the model."""

import itertools
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from cxr_dist.data.read import SampleDict
from cxr_dist.errors import UserError, out_of_files
from cxr_dist.inference.cases import NamedCase
from cxr_dist.inference.given_case import Case, ReportOptions
from cxr_dist.inference.trained import TrainedModel

_MAX_THREADS = 8  # for reading and shrinking images


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A case with its image and report in memory."""

    case: Case
    sample: SampleDict


CaseGroup = list[tuple[NamedCase, Loaded | UserError]]
"""The error says why the case cannot be read."""


def read_ahead(
    trained: TrainedModel, cases: Iterator[NamedCase], size: int, options: ReportOptions
) -> Iterator[CaseGroup]:
    """Yield groups of `size` cases; the next group is read while the caller works on the current one."""

    def read(named: NamedCase) -> Loaded | UserError:
        try:
            case = named.read(options)
            return Loaded(case=case, sample=trained.sample(case))
        except UserError as error:
            return out_of_files(error) or error

    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:

        def submitted() -> list[tuple[NamedCase, Future[Loaded | UserError]]]:
            return [(case, pool.submit(read, case)) for case in itertools.islice(cases, size)]

        group = submitted()
        while group:
            following = submitted()
            yield [(case, future.result()) for case, future in group]
            group = following
