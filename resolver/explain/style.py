"""The style sheet of the explanation page, without external fonts, images or scripts.

Colours are defined once for light and once for dark mode and never carry meaning alone. Names may break anywhere, so
that the page does not scroll sideways.
"""

__all__ = ["STYLE"]

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #ffffff; --ink: #1b2330; --soft: #5b6675; --line: #dde2e9;
  --good: #12805c; --good-bg: #e3f4ec; --bad: #b3261e; --bad-bg: #fdeae8; --open: #8a5a00; --open-bg: #fdf1d9;
  --tcp: #6b4fbb; --accent: #2563b8; --bar: #3f7fd1; --shade: 0 1px 2px rgb(20 30 50 / .06), 0 4px 16px rgb(20 30
  50 / .05); }
@media (prefers-color-scheme: dark) { :root { --page: #10141b; --card: #191f29; --ink: #e5eaf1; --soft: #98a4b4;
  --line: #2b3441; --good: #5fd3a5; --good-bg: #14342a; --bad: #ff8f85; --bad-bg: #40201e; --open: #f2c063;
  --open-bg: #3a2d12; --tcp: #b49cf5; --accent: #79b0f5; --bar: #5d9bea; --shade: none; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", "Liberation Sans",
  "DejaVu Sans", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .6rem; overflow-wrap: anywhere; }
h1 small { font-weight: 500; color: var(--soft); font-size: 1.1rem; }
h2 { font-size: 1.05rem; margin: 2rem 0 .6rem; display: flex; flex-wrap: wrap; gap: .1rem .6rem; align-items:
  baseline; }
h2 small { font-weight: 400; color: var(--soft); font-size: .85rem; }
p { margin: .35rem 0; }
code, .mono { font-family: ui-monospace, "SFMono-Regular", "Liberation Mono", "DejaVu Sans Mono", monospace;
  font-size: .87em;
  overflow-wrap: anywhere; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.1rem;
  box-shadow: var(--shade); }
.head { border-left: 5px solid var(--tone); }
.facts { display: flex; flex-wrap: wrap; gap: .4rem; margin: 0 0 .7rem; padding: 0; list-style: none; }
.pill { border: 1px solid var(--line); border-radius: 99px; padding: .05rem .65rem; font-size: .85rem; color:
  var(--soft);
  overflow-wrap: anywhere; }
.pill.main { font-weight: 650; color: var(--tone); background: var(--tone-bg); border-color: transparent; }
.good { --tone: var(--good); --tone-bg: var(--good-bg); } .bad { --tone: var(--bad); --tone-bg: var(--bad-bg); }
.open { --tone: var(--open); --tone-bg: var(--open-bg); }
dl.advice { display: grid; grid-template-columns: max-content 1fr; gap: .3rem .9rem; margin: .4rem 0 0; }
dl.advice dt { color: var(--soft); } dl.advice dd { margin: 0; overflow-wrap: anywhere; }
dl.advice .why { font-weight: 600; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  font-weight: 400; overflow-wrap: anywhere; }
thead th { color: var(--soft); font-size: .8rem; } tr:last-child td { border-bottom: 0; }
td.fixed { white-space: nowrap; }
.cuts { table-layout: fixed; } .cuts th:first-child { width: 26%; } .cuts th:nth-child(2) { width: 22%; }
.cuts th:nth-child(4) { width: 20%; }
ul.branch { list-style: none; margin: 0; padding: 0; } ul.branch ul.branch { padding-left: 2.1rem; }
ul.branch ul.branch > li { padding-top: .75rem; } ul.branch > li { position: relative; }
svg.link { position: absolute; left: -1.75rem; top: 0; width: 1.75rem; height: 2.2rem; overflow: visible; }
svg.link path { fill: none; stroke: var(--stroke); stroke-width: 2; } svg.link.dashed path.line { stroke-dasharray:
  5 4; }
svg.link .tip { fill: var(--stroke); stroke: none; }
svg.rail { position: absolute; left: -1.75rem; top: 0; width: 2px; height: 100%; }
.zone { border-left: 4px solid var(--tone); padding: .65rem .9rem; }
.zone > header { display: flex; gap: .55rem; align-items: center; flex-wrap: wrap; }
.zone > header b { overflow-wrap: anywhere; } .zone > header span { color: var(--soft); font-size: .85rem; }
svg.mark { width: 1.15rem; height: 1.15rem; flex: none; color: var(--tone); }
.zone p.note { color: var(--tone); font-size: .92rem; overflow-wrap: anywhere; }
.chips { display: flex; flex-wrap: wrap; gap: .35rem; margin: .45rem 0 0; padding: 0; list-style: none; }
.chip { border: 1px solid var(--line); border-radius: 6px; padding: .1rem .5rem; font-size: .82rem; background:
  var(--page); }
.chip b { font-weight: 650; } .chip.entry { border-color: var(--good); } .chip.entry::after { content: " vouched for";
  color: var(--good); }
ul.sigs { list-style: none; margin: .5rem 0 0; padding: 0; font-size: .88rem; }
ul.sigs li { display: flex; gap: .5rem; padding: .2rem 0 0; align-items: flex-start; } ul.sigs li > div {
  overflow-wrap: anywhere; }
ul.sigs svg.mark { width: 1rem; height: 1rem; margin-top: .18rem; } ul.sigs em { font-style: normal; color:
  var(--tone); display: block; }
ul.sigs small, .quiet { color: var(--soft); }
.line { display: grid; grid-template-columns: minmax(11rem, 19rem) 1fr 5.2rem; gap: 0 .9rem; padding: .4rem .3rem;
  align-items: center; } .line.axis { padding: 0 .3rem .2rem; color: var(--soft); font-size: .78rem; }
.times details { border-top: 1px solid var(--line); } summary.line { color: inherit; list-style: none;
  border-radius: 6px; }
summary.line::-webkit-details-marker { display: none; } summary.line:hover { background: var(--page); }
.times details > p { margin: .1rem .3rem; font-size: .85rem; color: var(--soft); overflow-wrap: anywhere; }
.times details > p:last-child { margin-bottom: .6rem; }
.line .what { font-size: .87rem; overflow-wrap: anywhere; min-width: 0; padding-left: calc(var(--depth, 0) * .8rem); }
.line .what small { color: var(--soft); display: block; } .line .took { text-align: right; font-variant-numeric:
  tabular-nums;
  font-size: .85rem; } .line .took small { display: block; color: var(--tone); overflow-wrap: anywhere; }
.line svg { width: 100%; height: 1.7rem; display: block; } .line.axis svg { height: 1.2rem; }
.bar-udp { fill: var(--bar); } .bar-tcp { fill: var(--tcp); } .bar-bad { fill: var(--bad); } .grid { stroke:
  var(--line); }
.axis text { fill: var(--soft); font-size: 11px; }
.legend { display: flex; gap: .3rem 1.1rem; flex-wrap: wrap; font-size: .82rem; color: var(--soft); margin: 0 0
  .5rem; }
.legend svg { width: .8rem; height: .8rem; vertical-align: -1px; }
summary { cursor: pointer; color: var(--accent); } summary:focus-visible { outline: 2px solid var(--accent);
  outline-offset: 2px; }
ol.steps { margin: .6rem 0 0; padding: 0; list-style: none; font-size: .85rem; }
ol.steps li { display: flex; gap: .7rem; padding: .18rem 0 .18rem calc(var(--depth, 0) * 1.1rem); border-bottom:
  1px solid var(--line); }
ol.steps li > :first-child { color: var(--soft); flex: 0 0 4.6rem; } ol.steps li > :last-child { overflow-wrap:
  anywhere; min-width: 0; }
footer { margin-top: 2rem; color: var(--soft); font-size: .82rem; }
@media (max-width: 40rem) { main { padding: 1rem .7rem 2rem; }
  .line .what { grid-column: 1; } .line .took { grid-column: 2; grid-row: 1; } .line .draw { grid-column: 1 / -1; }
  ul.branch ul.branch { padding-left: 1.4rem; } .line { grid-template-columns: 1fr 5.2rem; } svg.link { left:
  -1.1rem; width: 1.1rem; } svg.rail { left: -1.1rem; } .card { padding: .8rem .8rem; }
  dl.advice { grid-template-columns: 1fr; gap: .05rem; } dl.advice dd { margin-bottom: .4rem; }
  table, tbody, tr, td { display: block; } thead { display: none; } td { border: 0; padding: 0 0 .1rem; }
  tr { border-bottom: 1px solid var(--line); padding: .35rem 0; } tr:last-child { border-bottom: 0; } }
@media print { body { background: #fff; } .card { box-shadow: none; break-inside: avoid; } }
"""
