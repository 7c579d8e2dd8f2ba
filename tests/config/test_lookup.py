"""Look-up of parts by name: a wrong name gives one clear line, and a user's exception never reveals the data."""

import hashlib
import json
import sys

import pytest

from cxr_dist.config.lookup import code_sha256, guarded, look_up, recorded_name
from cxr_dist.errors import UserError

TABLE = {"densenet121": object(), "densenet-narrow": object()}
SECRET = "Mrs Featherstonehaugh"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """write(NAME.py, text) returns the path; its folder is the working directory and on sys.path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def written(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return written


def refused(name, table=TABLE):
    with pytest.raises(UserError) as caught:
        look_up("image encoder", name, table)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def test_a_name_in_the_table_gives_its_entry():
    assert look_up("image encoder", "densenet121", TABLE) is TABLE["densenet121"]
    assert code_sha256("densenet121") is None


def test_a_wrong_name_lists_the_valid_names_and_the_most_similar_one():
    assert refused("densenet12") == (
        "unknown image encoder 'densenet12' (did you mean 'densenet121'?); expected one of: densenet121, "
        "densenet-narrow, MODULE:NAME or FILE.py:NAME"
    )


@pytest.mark.parametrize("name", ["densenet121", ":Net", "net.py:"])
def test_a_name_without_a_module_or_without_a_name_is_refused(name):
    assert refused(name, table={}) == f"image encoder {name!r}: expected MODULE:NAME or FILE.py:NAME"


def test_a_module_and_a_file_give_what_they_define(write):
    write("site_net.py", "class Net:\n    pass\n")
    from_file = look_up("image encoder", "site_net.py:Net", TABLE)
    assert look_up("image encoder", "site_net:Net", TABLE).__name__ == from_file.__name__ == "Net"
    assert look_up("image encoder", "json:dumps", TABLE) is json.dumps


def test_a_file_is_loaded_once_and_another_file_of_the_same_name_separately(write, tmp_path):
    write("net.py", "class Net:\n    pass\n")
    (tmp_path / "other").mkdir()
    write("other/net.py", "class Net:\n    pass\n")
    net = look_up("image encoder", "net.py:Net", TABLE)
    assert look_up("image encoder", f"{tmp_path}/other/../net.py:Net", TABLE) is net
    assert look_up("image encoder", "other/net.py:Net", TABLE) is not net
    assert getattr(sys.modules[net.__module__], "Net") is net  # noqa: B009 (as pickling finds it)


def test_a_missing_module_or_file_is_distinguished_from_one_that_fails(write):
    assert "there is no module 'no_such_module'; expected MODULE:NAME or" in refused("no_such_module:Net")
    assert "there is no module 'json.nothing'" in refused("json.nothing:Net")
    assert "there is no file nowhere/net.py; expected MODULE:NAME or FILE.py:NAME" in refused("nowhere/net.py:Net")
    write("needs.py", "\nimport no_such_module\n")
    for name in ("needs:Net", "needs.py:Net"):
        assert refused(name) == (
            f"image encoder {name!r} raised ModuleNotFoundError in line 2 of needs.py: it needs no_such_module"
        )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"\n\nraise KeyError('{SECRET}')", "raised KeyError in line 3 of net.py"),
        (f"\nname = '{SECRET}", "raised SyntaxError in line 2 of net.py"),
        (f"import json\njson.loads('{SECRET}')", "raised JSONDecodeError in line 2 of net.py"),
        (f"import sys\nsys.exit('{SECRET}')", "raised SystemExit in line 2 of net.py"),
        (f"Net = '{SECRET}'", "net.py defines no 'Net' that can be called"),
    ],
)
def test_a_failing_module_gives_the_type_line_and_file_of_the_error_but_no_message(write, text, said):
    write("net.py", text)
    for _ in range(2):  # twice, because a module that failed must not stay in sys.modules
        assert said in refused("net.py:Net")


def test_a_name_that_the_module_does_not_define_is_refused():
    assert refused("json:Net") == "image encoder 'json:Net': json defines no 'Net' that can be called"


def test_guarded_keeps_a_user_error_and_hides_the_message_of_any_other(write):
    write("net.py", f"def fails():\n    return int('{SECRET}')\n")
    fails = look_up("image encoder", "net.py:fails", TABLE)
    with (
        pytest.raises(UserError, match=r"^stage 'net.py:fails' raised ValueError in line 2 of net\.py$"),
        guarded("stage", "net.py:fails"),
    ):
        fails()
    with pytest.raises(UserError, match=r"^as it was$"), guarded("stage", "net.py:fails"):
        raise UserError("as it was")


def test_the_sha256_is_that_of_the_file_as_it_is_now(write):
    path = write("net.py", "def Net(): ...\n")
    write("site_net2.py", "def Net(): ...\n")
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert code_sha256("net.py:Net") == code_sha256("site_net2:Net") == expected
    path.write_text("def Net(): pass\n")
    assert code_sha256("net.py:Net") != expected
    assert code_sha256("sys:exit") is None  # a built-in module has no file


def test_a_recorded_name_holds_no_folder(write, tmp_path):
    assert recorded_name(f"{tmp_path}/net.py:Net") == "net.py:Net"
    assert recorded_name("site.net:Net") == "site.net:Net"
    assert recorded_name("densenet121") == "densenet121"
