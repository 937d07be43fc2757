from wbcnets.io.text_table import format_table


def test_the_first_column_is_left_and_the_others_right():
    rows = [["class", "train", "all"], ["neutrophil", "8", "10"]]
    assert format_table(rows).splitlines() == ["class       train  all", "neutrophil      8   10"]
