"""Bring up to date what is generated in the pages: the README's counts and the picture of the rooms.

    python docs/generate.py           # write
    python docs/generate.py --check   # only say what is out of date, with exit code 1

The counts come from the files that they count, the picture from the imports of ``src/fluidwait``.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from fluidwait import policies
from fluidwait.base.yaml_files import load_yaml
from fluidwait.claims.claim import load_claims

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "fluidwait"
BEGIN, END = "<!-- counts: made by docs/generate.py -->", "<!-- end of counts -->"

Rooms = dict[str, set[str]]
"""The rooms that each room imports from."""


def main(arguments: list[str]) -> int:
    """Write every generated part, or with ``--check`` name those that would change."""
    made = {ROOT / "README.md": readme(), ROOT / "docs" / "architecture.svg": picture(rooms())}
    changed = [path for path, text in made.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in changed:
        if "--check" in arguments:
            print(f"{path.relative_to(ROOT)} is out of date: python docs/generate.py")
        else:
            path.write_text(made[path], encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return int("--check" in arguments and bool(changed))


# --- the README's counts ----------------------------------------------------------------------------------------------


def readme() -> str:
    """The README with its table of counts as it should be."""
    before, rest = (ROOT / "README.md").read_text(encoding="utf-8").split(BEGIN)
    return f"{before}{BEGIN}\n{counts()}{END}{rest.split(END)[1]}"


def counts() -> str:
    """What the project has, as a Markdown table."""
    claims, config = load_claims(), load_yaml(ROOT / "config" / "config.yaml")
    variants = {name for names in config["variants"].values() for name in names}
    rows = [
        ("claims", f"{len(claims)}, with {sum(len(claim.checks) for claim in claims)} checks", "paper/claims.yaml"),
        ("experiments", f"{len(config['experiments'])}, with {len(variants)} variants", "config/experiments"),
        ("studies", f"{len(config['studies'])}", "config/studies"),
        ("policies", f"{len(policies.names())}: {_listed(policies.names())}", "config/policies"),
        ("workloads", f"{_files('config/workloads', 'yaml')}", "config/workloads"),
        ("calibrated devices", f"{_files('data/hardware', 'yaml')}", "data/hardware"),
        ("recordings of vLLM", f"{len(list((ROOT / 'data').glob('*pu/*/bundle.json')))}", "docs/real-engine.md"),
        ("engines", "3: the simulator, Vidur, vLLM", "docs/engines.md"),
    ]
    lines = [f"| {what} | {number} | [{where}]({where}) |" for what, number, where in rows]
    return "\n".join(["| what there is | how many | where |", "|---|---|---|", *lines, ""])


def _files(folder: str, suffix: str) -> int:
    return len(list((ROOT / folder).glob(f"*.{suffix}")))


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


# --- the picture of the rooms -----------------------------------------------------------------------------------------


def rooms() -> Rooms:
    """Which room imports from which. A room is a folder of the package; modules at its root belong to none."""
    found: Rooms = {path.parent.name: set() for path in PACKAGE.glob("*/__init__.py")}
    for path in PACKAGE.glob("*/**/*.py"):
        room = path.relative_to(PACKAGE).parts[0]
        found[room] |= {name for name in map(_room_of, _imported(path)) if name in found and name != room}
    return found


def _imported(path: Path) -> list[str]:
    """Full names of all modules that a file imports, also inside functions."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def _room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == "fluidwait" and len(parts) > 1 else ""


def floors(graph: Rooms) -> dict[str, int]:
    """The floor of each room: 0 where nothing is imported, else one above the highest room imported.

    Raises:
        ValueError: rooms import each other in a circle.
    """
    found: dict[str, int] = {}

    def floor(room: str, above: tuple[str, ...]) -> int:
        if room in above:
            raise ValueError("rooms import each other: " + " -> ".join([*above[above.index(room) :], room]))
        if room not in found:
            found[room] = 1 + max((floor(other, (*above, room)) for other in graph[room]), default=-1)
        return found[room]

    for room in graph:
        floor(room, ())
    return found


def direct(graph: Rooms) -> Rooms:
    """The arrows without those that follow from others: no a -> c where a -> b -> c."""

    def below(room: str) -> set[str]:
        return graph[room] | {far for near in graph[room] for far in below(near)}

    return {room: near - {far for other in near for far in below(other)} for room, near in graph.items()}


WIDTH, ROW, BOX, EDGE, SHIFT = 760, 74, (112, 34), 24, 35
"""Pixels: of the picture, from floor to floor, of a box, of the margin; and sideways on every second floor, so that an
arrow past a floor does not seem to end there."""

STYLE = "text{font:13px sans-serif;fill:#222}rect{fill:#f4f6f8;stroke:#5b6b7a}path{fill:none;stroke:#8a97a3}"


def picture(graph: Rooms) -> str:
    """Rooms on their floors, with an arrow from each room down to those it imports from, as SVG."""
    floor, arrows = floors(graph), direct(graph)
    top = max(floor.values())
    places: dict[str, tuple[float, float]] = {}
    for level in range(top + 1):
        names = [room for room in graph if floor[room] == level]
        names.sort(key=lambda room: _order(arrows[room], places, room))
        step = (WIDTH - 2 * EDGE) / len(names)
        for index, room in enumerate(names):
            places[room] = (EDGE + (index + 0.5) * step + SHIFT * (-1) ** level, EDGE + (top - level) * ROW)
    height = 2 * EDGE + top * ROW + BOX[1]
    lines = [_arrow(places[a], places[b]) for a, near in sorted(arrows.items()) for b in sorted(near)]
    boxes = [_box(room, *place) for room, place in sorted(places.items())]
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    head = '<marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
            f"<style>{STYLE}</style>",
            f'<defs>{head}<path d="M0,0 L8,4 L0,8 z" style="fill:#8a97a3"/></marker></defs>',
            f'<rect width="{WIDTH}" height="{height}" style="fill:white;stroke:none"/>',
            *lines,
            *boxes,
            "</svg>\n",
        ]
    )


def _order(near: set[str], places: dict[str, tuple[float, float]], room: str) -> tuple[float, str]:
    """Above what it imports from, so that few arrows cross."""
    return (sum(places[other][0] for other in near) / len(near) if near else 0.0, room)


def _box(room: str, x: float, y: float) -> str:
    width, height = BOX
    rectangle = f'<rect x="{x - width / 2:.0f}" y="{y:.0f}" width="{width}" height="{height}" rx="5"/>'
    return f'{rectangle}<text x="{x:.0f}" y="{y + height / 2 + 5:.0f}" text-anchor="middle">{room}</text>'


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x, y), (to_x, to_y) = (start[0], start[1] + BOX[1]), end
    bend = ROW / 3
    curve = f"M{x:.0f},{y:.0f} C{x:.0f},{y + bend:.0f} {to_x:.0f},{to_y - bend:.0f} {to_x:.0f},{to_y:.0f}"
    return f'<path d="{curve}" marker-end="url(#head)"/>'


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
