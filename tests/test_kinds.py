"""Classes are found as soon as they are imported."""

import gc
from abc import ABC, abstractmethod
from typing import ClassVar

import pytest

from dukd.core.registry import known
from dukd.methods import DUKD, Method, ReleasedDUKD
from dukd.networks import EDSRConfig, NetworkConfig, RCANConfig, SMFANetConfig, SwinIRConfig


class Base(ABC):
    name: ClassVar[str]

    @abstractmethod
    def go(self) -> None: ...


class Middle(Base, ABC):
    """Still abstract."""


class Deep(Middle):
    name = "deep"

    def go(self) -> None: ...


class Deeper(Deep):
    name = "a deeper one"


class _Part(Deep):
    name = "part"


def test_concrete_classes_at_any_depth_are_found_sorted_by_name() -> None:
    assert list(known(Base).items()) == [("a deeper one", Deeper), ("deep", Deep)]


def test_a_class_is_found_as_soon_as_it_exists() -> None:
    class Late(Base):
        name = "late"

        def go(self) -> None: ...

    assert known(Base)["late"] is Late
    del Late
    gc.collect()
    assert "late" not in known(Base)


def test_two_classes_of_one_name_are_refused() -> None:
    """One that says no name of its own has its parent's, and would stand in for it."""

    class Root:
        name = "root"

    class First(Root):
        name = "one"

    class Second(First):
        """Somebody's variant."""

    with pytest.raises(ValueError, match=r"two classes are called 'one': .*First and .*Second"):
        known(Root)
    del Second


def test_a_class_made_again_takes_the_place_of_the_old_one() -> None:
    """Reloading a module in a notebook makes every class again."""

    class Root:
        """Nothing."""

    def make() -> type[Root]:
        class Again(Root):
            name = "again"

        return Again

    old, new = make(), make()

    assert old is not new
    assert known(Root)["again"] is new


def test_a_class_without_a_name_says_so() -> None:
    class Root:
        """Nothing."""

    class Nameless(Root):
        """Forgotten."""

    with pytest.raises(ValueError, match=r"Nameless has no name: write name = "):
        known(Root)
    del Nameless


def test_ours_are_there() -> None:
    assert known(Method)["dukd"] is DUKD
    assert known(Method)["dukd-released"] is ReleasedDUKD
    assert "dukd-released-second-step" not in known(Method)
    networks = {
        "edsr": EDSRConfig,
        "rcan": RCANConfig,
        "swinir": SwinIRConfig,
        "smfanet": SMFANetConfig,
    }
    assert networks.items() <= known(NetworkConfig).items()
