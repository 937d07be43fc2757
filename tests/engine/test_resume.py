from wbcnets.engine.resume import find_changes, flatten_settings


def test_nested_settings_get_dotted_keys():
    settings = {"model": {"name": "a", "kwargs": {"depth": 2}}, "seed": 1, "empty": {}}
    assert flatten_settings(settings) == {"model.name": "a", "model.kwargs.depth": 2, "seed": 1}


def test_changes_are_listed_but_for_those_that_may_differ():
    before = {"optimizer.lr": 0.1, "TEST.EVAL_PERIOD": 2, "TESTING": 1, "output": "a", "same": 0}
    now = {"optimizer.lr": 0.2, "TEST.EVAL_PERIOD": 3, "TESTING": 2, "output": "b", "same": 0}
    now["model.kwargs.depth"] = 3
    assert list(find_changes(before, now, ("TEST", "output"))) == [
        "TESTING: 1 then, 2 now",
        "model.kwargs.depth: None then, 3 now",
        "optimizer.lr: 0.1 then, 0.2 now",
    ]
    assert list(find_changes(before, before, ())) == []
