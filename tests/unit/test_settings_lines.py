"""A key's line is found whatever stands in the strings, arrays and comments before it."""

from agent.settings.lines import key_lines, line_of

TEXT = '''# hi [x
[venue]
id = "demo" # [ "
"a b".c = 1
x = [
  "a", # ]
  "b=["
]
y = """
[no]
k = 1 \\""" "
"""
z = {a = 1, b = [2]}
[devices.till-1]
services = ['x']
q = \'\'\'
 [z]\'\'\'
last = 1'''


def test_keys_stand_where_they_are_written() -> None:
    assert key_lines(TEXT) == {
        ("venue",): 2,
        ("venue", "id"): 3,
        ("venue", "a b"): 4,
        ("venue", "a b", "c"): 4,
        ("venue", "x"): 5,
        ("venue", "y"): 9,
        ("venue", "z"): 13,
        ("devices",): 14,
        ("devices", "till-1"): 14,
        ("devices", "till-1", "services"): 15,
        ("devices", "till-1", "q"): 16,
        ("devices", "till-1", "last"): 18,
    }


def test_what_is_not_written_stands_at_its_owner() -> None:
    lines = key_lines(TEXT)
    assert line_of(lines, ("venue", "z", "b")) == 13
    assert line_of(lines, ("cloud", "url")) == 1
