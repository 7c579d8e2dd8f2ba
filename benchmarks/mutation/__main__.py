"""Change the modules that decide numbers in one place at a time, and count the changes that their tests notice.

    make mutate          (python -m benchmarks.mutation [--seed 0] [--mutants-per-module 12] [--minutes 45] [--report])

mutmut makes the changes, in the copy `mutants/`, and runs the tests of each change in a process of its own, forked from
one that has imported torch. pyproject.toml names the modules and their tests ([tool.mutmut]), and the sample of
changes and the minutes to spend ([tool.mutation-sample]). A change that no test notices and that alters no result is
listed with its reason in equivalent.toml and does not count. Prints a score for each module and all other changes
that survived, and ends with status 1 if the score is below the goal. benchmarks/results/mutation.json gets a section
for the seed; those of other seeds stay.
"""

import datetime
import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, arguments, result_path, write_result
from benchmarks.mutation.lists import Change, Sample, equivalents, modules, own_tests, sample_settings

MUTANTS = ROOT / "mutants"
KILLED = ("killed", "timeout", "suspicious", "segfault")
MUTMUT = (str(Path(sys.executable).with_name("mutmut")),)
Statuses = dict[str, str]


def mutmut(*arguments: str, seconds: float | None = None, quiet: bool = False) -> str:
    """Run mutmut and return what it prints, if `quiet`; after `seconds` it is asked to stop."""
    process = subprocess.Popen([*MUTMUT, *arguments], cwd=ROOT, stdout=subprocess.PIPE if quiet else None, text=True)
    try:
        printed, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"mutmut {arguments[0]} ended with status {process.returncode}: see its output above")
    return printed or ""


def module_of(mutant: str) -> str:
    """`cxr_dist/data/plan.py` of a mutant's name, such as `cxr_dist.data.plan.x_group_weights__mutmut_3`."""
    return mutant.rpartition(".")[0].replace(".", "/") + ".py"


def statuses() -> Statuses:
    """Each mutant with its status in mutmut's words."""
    lines = mutmut("results", "--all", "true", quiet=True).splitlines()
    return dict(line.strip().rsplit(": ", 1) for line in lines if "__mutmut_" in line)


def keep_own_tests() -> None:
    """Leave to each function only its module's own tests, if they reach it, so that a mutant costs about a second."""
    path = MUTANTS / "mutmut-stats.json"
    stats = json.loads(path.read_text())
    reached: dict[str, list[str]] = stats["tests_by_mangled_function_name"]
    for function, tests in reached.items():
        own = own_tests(module_of(function))
        reached[function] = [test for test in tests if test.partition("::")[0] in own] or tests
    path.write_text(json.dumps(stats))


def drawn(mutants: Statuses, sample: Sample) -> list[str]:
    """The sample: of each module the mutants of the smallest hashes, which are the same until a function changes."""
    by_hash = sorted(mutants, key=lambda name: hashlib.sha256(f"{sample.seed}:{name}".encode()).digest())
    groups = ([name for name in by_hash if module_of(name) == module] for module in modules())
    return [name for group in groups for name in group[: sample.mutants_per_module]]


def change_of(mutant: str) -> Change:
    """The lines that a mutant changes."""
    lines = mutmut("show", mutant, quiet=True).splitlines()
    removed, added = (
        "\n".join(line[1:].strip() for line in lines if line[:1] == sign and line[:3] != 3 * sign) for sign in "-+"
    )
    module, _, name = mutant.rpartition("__mutmut_")[0].rpartition(".")
    # mutmut names a function x_NAME, and a method xǁCLASSǁNAME.
    return Change(function=f"{module}.{name[2:].replace('ǁ', '.')}", before=removed, after=added)


def score(tried: Statuses, equivalent: set[str]) -> dict[str, float]:
    """Counts of the mutants that were tried, and the share that was killed of those that change a result."""
    killed = sum(status in KILLED for status in tried.values())
    counted = len(tried) - len(equivalent & tried.keys())
    return {
        "tried": len(tried),
        "killed": killed,
        "equivalent": len(tried) - counted,
        "survived": counted - killed,
        "score": round(killed / counted, 4) if counted else 1.0,
    }


def make_all_mutants() -> None:
    """Make all mutants, and note which tests reach which function."""
    shutil.rmtree(MUTANTS, ignore_errors=True)
    smallest = min(modules(), key=lambda module: (ROOT / module).stat().st_size)
    mutmut("run", "--max-children", "1", smallest.removesuffix(".py").replace("/", ".") + ".*__mutmut_1")
    keep_own_tests()


def by_module(possible: Iterable[str], tried: Statuses, equivalent: set[str]) -> dict[str, dict[str, float]]:
    """The counts of each module, which are also printed."""
    table = {}
    for module in modules():
        own = {name: status for name, status in tried.items() if module_of(name) == module}
        counts = score(own, equivalent)
        table[module] = {"possible": sum(module_of(name) == module for name in possible)} | counts
        print(f"{module:<44}{counts['killed']:4} of {counts['killed'] + counts['survived']:4}  {counts['score']:.0%}")
    return table


def seeds_with(seed: int, found: dict[str, Any]) -> dict[str, Any]:
    """What the result file has of each seed, with `found` for this one."""
    path = result_path("mutation")
    before = json.loads(path.read_text(encoding="utf-8")).get("seeds", {}) if path.is_file() else {}
    return dict(sorted((before | {str(seed): found}).items(), key=lambda item: int(item[0])))


def main() -> None:
    report = (False, "try nothing, and report what the last run found, for example after a change of equivalent.toml")
    options = vars(arguments(__doc__, **vars(sample_settings()), report=report))
    report_only, sample = options.pop("report"), Sample(**options)
    if not report_only:
        make_all_mutants()
    possible = statuses()
    names = drawn(possible, sample)
    if not report_only:
        mutmut("run", "--max-children", "1", *names, seconds=60 * sample.minutes)
    now = statuses()
    tried = {name: now[name] for name in names if now[name] not in ("not checked", "check was interrupted by user")}
    alive = {name: change_of(name) for name, status in tried.items() if status not in KILLED}
    listed = equivalents()
    reasons = {name: reason for name, change in alive.items() if (reason := listed.why(change))}
    table, total = by_module(possible, tried, set(reasons)), score(tried, set(reasons))
    survivors = {name: change for name, change in alive.items() if name not in reasons}
    for name, change in survivors.items():
        print(f"\n{name}\n- {change.before}\n+ {change.after}")
    print(f"\n{len(possible)} mutants, {len(names)} drawn, {total}")
    found = {
        "sample": vars(sample),
        "date": datetime.date.today().isoformat(),
        "total": {"possible": len(possible), "drawn": len(names)} | total,
        "modules": table,
        "survivors": {name: [change.before, change.after] for name, change in survivors.items()},
        "equivalent": dict(sorted(reasons.items())),
    }
    write_result(
        "mutation",
        "share of changes to the code that its own tests notice, by module",
        mutmut=mutmut("--version", quiet=True).split()[-1],
        seeds=seeds_with(sample.seed, found),
    )
    sys.exit(total["score"] < sample.goal)


if __name__ == "__main__":
    main()
