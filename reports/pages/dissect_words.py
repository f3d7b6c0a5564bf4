"""What a dissected result says in sentences. Each is a claim that holds for any vector.

Parts are told as shares where the total is clear of zero against what cancels in it, and as logits where it is not. Of
a total that falls, shares are shares of the fall.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from steerscope.analysis.results.result import Result
from steerscope.reports import words
from steerscope.reports.pages.dissect_views import NOTHING, OWN, Target, View
from steerscope.reports.routes import FINAL, OTHERS
from steerscope.reports.theme import visible

NAMED = 2  # parts in a sentence
LEAST = 0.05  # of the mass, from which on a part is named
TEMPERATURE = "that is temperature and not steering"
READ = {
    "centred": "logits above the mean of all tokens",
    "raw": "logits, a shift that all tokens share included",
    "log_prob": "nats of log-probability",
}


def readout(result: Result) -> str:
    """In what changes are told."""
    return READ.get(str(result.manifest.get("readout", "centred")), "logits")


def unit(result: Result) -> str:
    """The unit of a change."""
    return "nats" if result.manifest.get("readout") == "log_prob" else "logits"


def summary(result: Result, found: Sequence[View]) -> list[str]:
    """What heads the page: who writes the change, the first prompt's largest gain and loss, what is temperature."""
    targets = [target for view in found for target in view.targets]
    if not targets:
        return ["No logit was read: the tables of this result have no rows."]
    if all(target.nothing for target in targets):
        return ["The injection changes no logit that is read here: every part is zero."]
    several = len(found) > 1
    said = []
    if several:
        shares = {path: share for path, share in carriers(found).items() if share >= LEAST}
        listed = [f"{_writer(path)} ({words.percent(share)})" for path, share in list(shares.items())[:4]]
        if listed:
            said.append(
                f"Of all that is written at {len(found)} places to {len(targets)} tokens, whatever cancels, the "
                f"largest shares are those of {words.listing(listed)}."
            )
        scale = carriers(found).get(FINAL, 0.0)
        if scale >= LEAST:
            said.append(f"The final norm's scale is {words.percent(scale)} of it: {TEMPERATURE}.")
    said += in_first(result, found, 2 if several else 3)
    off = gap(result)
    if words.finite(off):
        said.append(f"The parts add up to what two plain runs measure, to {words.number(off)} of their size.")
    return said


def in_first(result: Result, found: Sequence[View], most: int = 1) -> list[str]:
    """The vector's own token, what gains most and what loses most, where the first prompt is read last."""
    view = max((view for view in found if view.prompt == found[0].prompt), key=lambda view: view.position)
    order = sorted(view.targets, key=lambda target: target.change)
    shown = [target for target in view.targets if target.chosen == OWN][:1]
    shown += [target for target in order[:-2:-1] if target.change > 0 and target not in shown]
    shown += [target for target in order[:1] if target.change < 0 and target not in shown]
    opening = "In the first prompt, " if len(found) > 1 else ""
    return [
        ("" if n else opening) + " ".join(told(view, target, unit(result))) for n, target in enumerate(shown[:most])
    ]


def carriers(found: Sequence[View]) -> dict[str, float]:
    """Of each last writer, its share of the mass over all places and tokens, largest first."""
    size: dict[str, float] = defaultdict(float)
    for view in found:
        for target in view.targets:
            for path, change in target.writers.items():
                size[path] += abs(change)
    whole = sum(size.values())
    return {path: own / whole for path, own in sorted(size.items(), key=lambda item: -item[1]) if whole}


def gap(result: Result) -> float:
    """The largest gap between parts and what was measured, over the mass of the parts."""
    table = result.frames["totals"]
    mass = table["parts_mass"].where(table["parts_mass"] > 0)
    return float((table["gap"].abs() / mass).max())


def told(view: View, target: Target, in_: str) -> list[str]:
    """Sentences on a target at a place."""
    where = f"“{visible(target.token)}” after “{tail(view)}”"
    if not (words.finite(target.change) and words.finite(target.mass)):
        return [f"Of {where} the change is not known."]
    if target.nothing:
        return [f"{where} does not change."]
    if abs(target.change) <= NOTHING:
        cancels = f"{where} does not change: {words.number(target.mass)} {in_} cancel."
        return [cancels, *temperature(target, in_)]
    way = "rises" if target.change > 0 else "falls"
    found = [f"{where} {way} by {words.number(abs(target.change))} {in_}{_cancelled(target, in_)}."]
    steering = {path: change for path, change in target.writers.items() if path != FINAL}
    found += _listed(target, steering, "written by ", _writer, in_)
    routes = {path: change for path, change in target.routes.items() if _told(path)}
    found += _listed(target, routes, "", view.place.said, in_)
    found += temperature(target, in_)
    return found


def tail(view: View, most: int = 3) -> str:
    """The last tokens up to a place."""
    before = list(view.tokens[: view.position + 1])
    text = "".join(before[-most:]).strip().replace("\n", " ")
    return f"{'… ' * (len(before) > most)}{text}" if text else visible("".join(before[-most:]))


def _cancelled(target: Target, in_: str) -> str:
    """How much cancels, where that is much."""
    if target.clear:
        return ""
    return f", what is left of parts of {words.number(target.mass)} {in_} in all"


def temperature(target: Target, in_: str) -> list[str]:
    """What the scale of the final norm gives, where it is much."""
    if abs(target.final) < LEAST * target.mass or target.nothing:
        return []
    gives = f"The final norm's scale gives {words.signed(target.final)} {in_} of {words.signed(target.change)}"
    return [f"{gives}: {TEMPERATURE}."]


def _told(path: str) -> bool:
    return path != FINAL and not path.endswith(OTHERS)


def _writer(path: str) -> str:
    return {"direct": "what is injected there"}.get(path, path)


def _listed(target: Target, parts: Mapping[str, float], how: str, say: Callable[[str], str], in_: str) -> list[str]:
    """A sentence on the largest parts that go along with the change, and on what works most against it."""
    towards, whole = (1, "rise") if target.change > 0 else (-1, "fall")
    large = [(path, change) for path, change in parts.items() if abs(change) >= LEAST * target.mass]
    along = [part for part in large if part[1] * towards > 0][:NAMED]
    against = [part for part in large if part[1] * towards < 0][:1]
    named = [f"{_amount(target, change, in_)} {how}{say(path)}" for path, change in along]
    if named and target.clear:
        named[0] = named[0].replace("%", f"% of the {whole}", 1)
    opposed = [f"{words.signed(change)} {in_} are {how}{say(path)}" for path, change in against]
    if not named and not opposed:
        return []
    if not named:
        return [f"Against the {whole}, {opposed[0]}."]
    return [f"{words.listing(named)}{f'; against it, {opposed[0]}' if opposed else ''}."]


def _amount(target: Target, change: float, in_: str) -> str:
    """A part as a share of a total that is clear of zero, else in logits; with its verb."""
    return f"{words.percent(change / target.change)} is" if target.clear else f"{words.signed(change)} {in_} are"
