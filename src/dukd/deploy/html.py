"""The page around a network, from the parts in ``web``."""

import json
from html import escape
from importlib.resources import files as resources

from dukd.networks import Network


def html(
    network: Network,
    facts: dict[str, object],
    *,
    about: str,
    title: str,
    data: str,
    policy: dict[str, str],
) -> str:
    """The page around a network.

    Args:
        network: The network.
        facts: What the script has to know.
        about: A sentence below the headline.
        title: Headline; the network's name and scale if empty.
        data: Elements that carry the engine.
        policy: What the page may load.
    """
    count = f"{network.deployed_parameter_count():,} parameters"
    known = f'<script type="application/json" id="facts">{json.dumps(facts)}</script>'
    values = {
        "policy": "; ".join(f"{what} {where}" for what, where in policy.items()),
        "title": escape(title or f"{network.name} ×{network.scale}"),  # noqa: RUF001  times
        "about": escape(f"{count}. {about}"),
        "style": web("page.css"),
        "script": web("page.js"),
        "data": known + data,
    }
    # by parts, since what is put in may hold anything
    first, *rest = web("page.html").split("{{")
    parts = [first]
    for piece in rest:
        name, _, after = piece.partition("}}")
        parts += [values[name], after]
    return "".join(parts)


def web(name: str) -> str:
    """The text of a file of the page."""
    return resources("dukd.deploy").joinpath("web", name).read_text(encoding="utf-8")
