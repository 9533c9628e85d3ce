"""The rows of a stage as one web page: nothing to load, no script, light and dark as the reader's screen is."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

from ft.run import rows_line
from ft.show import Shown, ShownRow, Token, visible_tokens

STYLE = """
:root { color-scheme: light dark;
  --paper: light-dark(#fbfaf8, #16181c); --card: light-dark(#ffffff, #1d2026); --ink: light-dark(#22262d, #e3e6eb);
  --quiet: light-dark(#6d7480, #98a0ad); --line: light-dark(#e4e2dd, #30353e); --bar: light-dark(#8fb8a0, #3f7a5c);
  --trained: light-dark(#d3f2df, #14442d); --trained-ink: light-dark(#0b5a32, #a5efc4);
  --template: light-dark(#8a8f98, #7c8491); --system: light-dark(#8b3fa8, #d39bea);
  --user: light-dark(#1d6394, #86c1ea); --assistant: light-dark(#8a6100, #e3bd63);
  --tool: light-dark(#4a4fb5, #a9adf3) }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem }
h1 { font-size: 1.6rem; margin: 0; letter-spacing: -.01em } h1 small { color: var(--quiet); font-weight: 400 }
h2 { font-size: .78rem; margin: 0 0 .8rem; color: var(--quiet); font-weight: 600; text-transform: uppercase;
  letter-spacing: .06em }
p { margin: .3rem 0 } .quiet { color: var(--quiet) }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; margin: 1.6rem 0 }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.2rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th { font-weight: 400; color: var(--quiet); font-size: .85rem }
th, td { text-align: right; padding: .2rem 0 .2rem 1rem }
th:first-child, td:first-child { text-align: left; padding: 0 }
tr + tr td { border-top: 1px solid var(--line) }
.marks { display: flex; flex-wrap: wrap; gap: .6rem 1.6rem; margin-top: 1.4rem; font-size: .82rem; color: var(--quiet) }
.marks b { display: block; font-size: 1.15rem; color: var(--ink); font-variant-numeric: tabular-nums }
.bars { display: grid; grid-template-columns: auto 1fr auto; gap: 3px .7rem; align-items: center; font-size: .82rem;
  font-variant-numeric: tabular-nums } .bars span { text-align: right; color: var(--quiet); white-space: nowrap }
.bars div { background: var(--bar); height: .8rem; border-radius: 2px; min-width: 1px }
.legend { position: sticky; top: 0; background: var(--paper); padding: .7rem 0; display: flex; flex-wrap: wrap;
  gap: .3rem 1.2rem; font-size: .85rem; border-bottom: 1px solid var(--line); z-index: 1 }
.row { margin-top: 1.2rem } .row header { display: flex; justify-content: space-between; flex-wrap: wrap; gap: 0 1rem;
  font-size: .85rem; margin-bottom: .5rem } .row header b { overflow-wrap: anywhere }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font: 13.5px/1.85 ui-monospace, "DejaVu Sans Mono",
  monospace }
s { --edge: color-mix(in srgb, currentColor 25%, transparent); text-decoration: none; border-radius: 2px;
  box-shadow: inset 1px 0 var(--edge); padding: 1px 0 }
s:hover { outline: 1.5px solid currentColor }
.template { color: var(--template) } .system { color: var(--system) } .user { color: var(--user) }
.assistant { color: var(--assistant) } .tool { color: var(--tool) }
.trained { background: var(--trained); color: var(--trained-ink) } .special { font-weight: 700 } i { opacity: .45;
  font-style: normal }
"""


def write_page(found: Shown, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(found), encoding="utf-8")
    return path


def page(found: Shown) -> str:
    """The whole page; whatever a row says is escaped."""
    title = f"{found.recipe} · {found.stage}"
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>",
            f"<h1>{escape(found.stage)} <small>{escape(found.recipe)}</small></h1>",
            f"<p>{escape(rows_line(found.stats))}</p>",
            '<div class="cards">',
            *_roles(found),
            *_lengths(found),
            "</div>",
            *_legend(found),
            *(line for row in found.rows for line in _row(row)),
            "</main></body></html>",
            "",
        )
    )


def _roles(found: Shown) -> Iterator[str]:
    yield '<section class="card"><h2>Tokens by role</h2><table>'
    yield "<tr><th></th><th>tokens</th><th>trained</th><th>share</th></tr>"
    for role, count, trained in found.roles:
        counts = f"<td>{count:,}</td><td>{trained:,}</td><td>{trained / count:.0%}</td>"
        yield f'<tr><td class="{role}">{role}</td>{counts}</tr>'
    train = found.stats["train"]
    share = train["trained_tokens"] / train["tokens"]
    yield f"<tr><td>all</td><td>{train['tokens']:,}</td><td>{train['trained_tokens']:,}</td><td>{share:.0%}</td></tr>"
    yield '</table><div class="marks">'
    yield from (f"<span>{name}<b>{count:,}</b></span>" for name, count in found.quantiles.items())
    yield f"<span>max_length<b>{found.max_length:,}</b></span></div></section>"


def _lengths(found: Shown) -> Iterator[str]:
    yield '<section class="card"><h2>Rows by length in tokens</h2><div class="bars">'
    most = max((rows for _, _, rows in found.bins), default=1) or 1
    for low, high, rows in found.bins:
        bar = f'<div style="width:{rows / most:.1%}"></div>' if rows else "<i></i>"
        yield f"<span>{low:,} to {high:,}</span>{bar}<span>{rows:,}</span>"
    yield "</div></section>"


def _legend(found: Shown) -> Iterator[str]:
    yield '<div class="legend"><s class="trained">trained</s>'
    yield from (
        f'<span class="{role}">{role}, only read</span>' for role, count, trained in found.roles if trained < count
    )
    yield '<b>special token</b><span class="quiet">⏎ line end &nbsp; · blank &nbsp; ⇥ tab</span>'
    yield '<span class="quiet">point at a token for its id and role</span></div>'


def _row(row: ShownRow) -> Iterator[str]:
    yield f'<section class="card row"><header><b>{escape(row.where)}</b>'
    yield f'<span class="quiet">{row.length:,} tokens, {row.trained:,} trained</span></header>'
    yield f"<pre>{''.join(_token(token, text) for token, text in visible_tokens(row))}</pre></section>"


def _token(token: Token, text: str) -> str:
    words = [token.role, *["trained"] * token.trained, *["special"] * token.special]
    classes, said = " ".join(words), " · ".join([" ".join(map(str, token.ids)), *words])
    marks = escape(text).replace("⏎", "<i>⏎</i>").replace("·", "<i>·</i>").replace("⇥", "<i>⇥</i>")
    return f'<s class="{classes}" title="{said}">{marks}</s>'
