"""The password of a shared workbench: kept as a hash, compared one at a time, slower after each wrong one."""

import unicodedata

import pytest
from argon2 import PasswordHasher

from stir_core.deploy.serving.password import LONGEST_WAIT, PasswordCheck, password_hash
from stir_core.errors import DeployError

PASSWORD = "correct hörse"


@pytest.fixture(scope="module")
def kept():
    return password_hash(PASSWORD)


class Clock:
    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds


def test_only_a_salted_argon2id_hash_is_kept(kept):
    assert kept.startswith("$argon2id$") and PASSWORD not in kept
    assert password_hash(PASSWORD) != kept, "each has a salt of its own"
    check = PasswordCheck(kept)
    assert check.fits(PASSWORD)


def test_an_accent_may_be_one_character_or_two(kept):
    assert PasswordCheck(kept).fits(unicodedata.normalize("NFD", PASSWORD))


@pytest.mark.parametrize("wrong", ["", "correct horse", PASSWORD + " ", PASSWORD.upper(), PASSWORD + "\0", "x" * 100_000, "\ud800"])
def test_another_one_does_not_fit(kept, wrong):
    assert not PasswordCheck(kept).fits(wrong)


def test_each_wrong_one_makes_everybody_wait_longer_and_a_right_one_ends_that(kept):
    now, waits = Clock(), []
    check = PasswordCheck(kept, now)
    assert not check.fits("wrong")
    for _ in range(7):
        before = now()
        while True:
            try:
                assert not check.fits("wrong")
                break
            except DeployError as refused:
                assert "try again in" in str(refused) and "\n" not in str(refused)
                now.seconds += 0.5
        waits.append(now() - before)
    assert waits == [1, 2, 4, 8, LONGEST_WAIT, LONGEST_WAIT, LONGEST_WAIT]
    with pytest.raises(DeployError, match="try again in 16 s"):
        check.fits(PASSWORD)
    now.seconds += LONGEST_WAIT
    assert check.fits(PASSWORD) and not check.fits("wrong")
    now.seconds += 1
    assert check.fits(PASSWORD), "the count began anew"


@pytest.mark.parametrize("password", ["", "seven77", "x" * 201])
def test_a_password_is_neither_short_nor_endless(password):
    with pytest.raises(DeployError, match=f"the password has {len(password)} characters: take 8 to 200"):
        password_hash(password)


@pytest.mark.parametrize("hash", ["", "hunter2hunter2", "$argon2id$v=19$m=65536"])
def test_what_is_not_a_hash_is_refused(hash):
    with pytest.raises(DeployError, match="STIR_PASSWORD_HASH is not an argon2 hash"):
        PasswordCheck(hash)


def test_a_thousand_wrong_ones_and_a_hash_that_is_cut_open_nothing(kept):
    now = Clock()
    check = PasswordCheck(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD), now)
    for _ in range(1100):
        assert not check.fits("wrong")
        now.seconds += LONGEST_WAIT
    assert check.fits(PASSWORD)
    assert not PasswordCheck(kept[:-4]).fits(PASSWORD)
