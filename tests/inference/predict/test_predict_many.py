"""`cxr-dist predict --input` gives a row per case at any batch size; an unreadable image affects its own row only."""

import csv
import json
import shutil
import stat

import pytest

FINDINGS = ("--section", "findings")
FEW = ("--mc-samples", "3")


def rows_of(folder):
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def numbers(row):
    return [float(value) for name, value in row.items() if name.split(":")[0] in ("probability", "mc_low")]


@pytest.fixture
def table(images):
    """A table: one report holds a comma and a line break, one row names no file, and one names a bad file."""
    (images / "bad.png").write_text("not an image")
    reports = [(images / f"smith-{i}.txt").read_text() for i in range(4)]
    reports[1] = 'Heart "large",\nlungs clear'
    with (images / "cases.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "image", "report"])
        rows.writerows([f"patient {i}", f"smith-{i}.jpg", report] for i, report in enumerate(reports))
        rows.writerows([["patient 4", "", "no image"], ["patient 5", "bad.png", "no pixels"]])
    return images / "cases.csv"


def test_a_folder_gives_a_row_a_picture_and_json_per_image(cxr_dist, run_of, images, tmp_path):
    out = tmp_path / "out"
    status, printed, err = cxr_dist(
        "predict", run_of("fused"), *FINDINGS, "--no-report", "--input", images, "--out", out, *FEW
    )
    assert (status, err) == (0, "")
    assert f"5 of 5 cases predicted: {out}/predictions.csv" in printed
    assert "1 without a report were predicted from the image alone (row 5)" in printed
    rows = rows_of(out)
    assert [(row["row"], row["image"], row["error"]) for row in rows] == [
        (str(i + 1), f"smith-{i}.jpg", "") for i in range(5)
    ]
    for row in rows:
        facts = json.loads((out / f"case-0000{row['row']}.json").read_text())
        assert facts["image"] == row["image"]
        assert [float(row[f"probability:{name}"]) for name in facts["probability"]] == [*facts["probability"].values()]
        assert (out / f"case-0000{row['row']}.png").read_bytes().startswith(b"\x89PNG")
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o600}


def test_names_that_a_spreadsheet_would_take_for_formulas_get_a_quote_in_front(cxr_dist, run_of, images, tmp_path):
    names = ["+3.jpg", "-2+1.jpg", "=1+1.jpg", "@A1.jpg"]
    with (images / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "image"], *zip(["=1", "-5", "\tx", "9"], names, strict=True)])
    for i, name in enumerate(names):
        (images / f"smith-{i}.jpg").rename(images / name)
    given = ("--no-report", "--input", images / "cases.csv", "--batch", 4, "--out", tmp_path / "out", *FEW)
    status, printed, err = cxr_dist("predict", run_of("fused"), *given)
    assert (status, err) == (0, ""), printed
    rows = rows_of(tmp_path / "out")
    assert [row["image"] for row in rows] == [f"'{name}" for name in names]
    assert [row["id"] for row in rows] == ["'=1", "-5", "'\tx", "9"]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_case_gets_the_same_prediction_in_a_batch_as_alone(cxr_dist, run_of, table, tmp_path, size):
    given = (*FEW, *FINDINGS, "--input", table)
    status, printed, _ = cxr_dist("predict", run_of("fused"), *given, "--batch", size, "--out", tmp_path / "out")
    assert status == 1
    assert "4 of 6 cases predicted" in printed
    assert "2 could not be used: see the column error" in printed
    assert "smith" not in printed
    rows = rows_of(tmp_path / "out")
    assert [row["id"] for row in rows] == [f"patient {i}" for i in range(6)]
    assert [row["error"] for row in rows] == [
        *[""] * 4,
        "this run's model reads an image, but the case has none: give a PNG, JPEG or DICOM image",
        "the image cannot be used: image not readable; expected a PNG, JPEG or DICOM file",
    ]
    assert not any(rows[4][name] for name in rows[4] if name not in ("row", "id", "image", "error", "warnings"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.csv"]
    one = tmp_path / "one.png"
    report = ("--report", 'Heart "large",\nlungs clear')
    image = ("--image", table.parent / "smith-1.jpg")
    cxr_dist("predict", run_of("fused"), *image, *report, *FINDINGS, "--out", one, *FEW)
    alone = json.loads(one.with_suffix(".json").read_text())
    expected = [*alone["probability"].values(), *alone["mc_low"].values()]
    assert numbers(rows[1]) == pytest.approx(expected, abs=2e-6)


def test_a_text_only_run_reads_the_reports_of_a_folder_or_table(cxr_dist, run_of, images, table, tmp_path):
    for source, count in ((images, 4), (table, 6)):
        out = tmp_path / str(count)
        cxr_dist("predict", run_of("text"), *FINDINGS, "--input", source, "--out", out, "--batch", "2")
        rows = rows_of(out)
        assert sum(not row["error"] for row in rows) == count


def test_an_image_only_run_ignores_the_reports(cxr_dist, run_of, table, tmp_path):
    cxr_dist("predict", run_of("image"), "--input", table, "--out", tmp_path / "out", "--batch", "2")
    rows = rows_of(tmp_path / "out")
    assert [bool(row["error"]) for row in rows] == [False] * 4 + [True] * 2


def test_a_multilabel_run_decides_every_label_by_itself(cxr_dist, run_of, images, tmp_path):
    """The weights of the multiclass run are used as those of a multilabel run."""
    run_dir = shutil.copytree(run_of("image"), tmp_path / "run", symlinks=True)
    trained_on = (run_dir / "trained_on.json").read_text()
    (run_dir / "trained_on.json").write_text(trained_on.replace('"multiclass"', '"multilabel"'))
    status, _, err = cxr_dist("predict", run_dir, "--input", images, "--out", tmp_path / "out", "--mc-samples", "2")
    assert (status, err) == (0, "")
    for row in rows_of(tmp_path / "out"):
        names = [column.partition(":")[2] for column in row if column.startswith("predicted:")]
        assert len(names) == 5
        for name in names:
            assert int(row[f"predicted:{name}"]) == (float(row[f"probability:{name}"]) >= 0.5)


def test_a_folder_that_is_not_empty_is_not_written_to(cxr_dist, run_of, images):
    before = sorted(images.iterdir())
    status, _, err = cxr_dist("predict", run_of("fused"), "--input", images, "--out", images)
    assert status == 2
    assert "--out is not empty: choose a new or empty folder" in err
    assert sorted(images.iterdir()) == before
