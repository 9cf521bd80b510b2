"""Seeds are functions of names: stable over versions, different for different names."""

from stir_core.seeding import generator_for, seed_for


def test_seeds_never_change():
    assert seed_for(0, "rollout", "gsm8k/train/1", 3) == 7834596194448354844


def test_names_do_not_collide():
    names = [("a", 1), ("a", "1"), ("a1",), ("a", 11), ("a", 1, 1)]
    assert len({seed_for(0, *name) for name in names}) == len(names)
    assert seed_for(0, "a") != seed_for(1, "a")


def test_streams_repeat():
    assert generator_for(1, "x").random() == generator_for(1, "x").random()
