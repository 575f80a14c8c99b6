from i2pmae.suggest import suggestion


def test_the_nearest_name_is_suggested():
    assert suggestion("chiar", ["sofa", "chair", "table"]) == "did you mean 'chair'?"


def test_capitals_do_not_matter_and_the_known_spelling_is_given():
    assert suggestion("vit-b-16", ["ViT-B-16", "RN50"]) == "did you mean 'ViT-B-16'?"


def test_several_near_names_can_be_given():
    assert suggestion("chair_2", ["chair_1", "chair_3", "x"], n=2).count("chair") == 2


def test_without_a_near_name_some_are_listed():
    names = [f"shape-{number}" for number in range(12)]
    assert suggestion("qqq", names) == f"there are: {', '.join(names[:8])} and 4 more"
    assert suggestion("qqq", []) == ""
