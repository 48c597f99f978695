"""The page's style sheet: one column of text, tables that scroll by themselves, light and dark."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #faf9f6; --card: #ffffff; --ink: #1b1d21; --muted: #5b6268; --line: #dfdcd5;
  --soft: #f2f0eb; --accent: #0a5f94; --best: #fdf0c4; --best-ink: #4d3a00;
  --forget: #d55e00; --retain: #0072b2; --test: #009e73; --multiplier: #aa4499;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #121416; --card: #191c1f; --ink: #e9e6e0; --muted: #a0a7ad; --line: #33383d;
    --soft: #202428; --accent: #7cc0ec; --best: #4a3c10; --best-ink: #ffe9a8;
    --forget: #ff9145; --retain: #5db7ee; --test: #3fcf9f; --multiplier: #e193d3;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1240px; margin: 0 auto; padding: 40px 20px 72px; }
h1, h2, h3 {
  line-height: 1.2; letter-spacing: -0.015em; text-wrap: balance; overflow-wrap: anywhere;
}
h1 { font-size: 2.1rem; margin: 0 0 20px; font-weight: 680; }
h2 { font-size: 1.45rem; margin: 52px 0 6px; padding-top: 20px; border-top: 2px solid var(--ink); }
h2 .words { font-weight: 400; color: var(--muted); }
h3 { font-size: 1.08rem; margin: 40px 0 4px; }
p { margin: 6px 0 12px; max-width: 76ch; }
a { color: var(--accent); text-underline-offset: 2px; }
.muted, .note { color: var(--muted); }
.note { font-size: 0.875rem; max-width: 96ch; }
.overline {
  margin: 0 0 4px; font-size: 0.78rem; letter-spacing: 0.09em; text-transform: uppercase;
  color: var(--muted);
}
.facts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 14px 28px;
  margin: 0; padding: 18px 0; border: solid var(--line); border-width: 1px 0;
}
.facts .wide { grid-column: span 2; }
.facts dt { font-size: 0.78rem; color: var(--muted); }
.facts dd { margin: 0; font-size: 0.94rem; overflow-wrap: anywhere; }
nav { margin: 16px 0 0; display: flex; flex-wrap: wrap; gap: 6px 20px; font-size: 0.94rem; }
.finding { font-size: 1.05rem; max-width: 84ch; overflow-wrap: anywhere; }
.warning { border-left: 3px solid var(--forget); padding: 2px 0 2px 14px; margin: 20px 0; }
.warning ul { margin: 4px 0; padding-left: 20px; }
.scroll {
  position: relative; overflow-x: auto; margin: 18px 0 12px; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px;
}
.scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: 0.875rem; }
th, td { padding: 9px 5px; text-align: right; vertical-align: top; }
td { font-variant-numeric: tabular-nums; }
thead th { font-weight: 600; font-size: 0.77rem; line-height: 1.3; vertical-align: bottom; }
thead .group th {
  text-align: left; font-weight: 400; color: var(--muted); padding-bottom: 2px; white-space: nowrap;
}
thead .names th { border-bottom: 1px solid var(--ink); padding-top: 2px; }
thead .aim { display: block; font-weight: 400; font-size: 0.7rem; color: var(--muted); }
.scroll:has(.ranking), .scroll:has(.plain) { width: fit-content; max-width: 100%; }
.plain td { padding: 9px 8px; white-space: nowrap; }
.plain thead th { padding: 9px 8px; }
.shade { background: color-mix(in srgb, var(--by), transparent); }
.verdict { margin: 8px 0 0; padding-left: 20px; max-width: 84ch; overflow-wrap: anywhere; }
.verdict li { margin: 3px 0; }
.plane {
  display: grid; grid-template-columns: minmax(0, 560px) minmax(180px, 1fr); gap: 18px 28px;
}
.plane ol { margin: 0; padding: 0; font-size: 0.875rem; columns: 230px; align-self: start; }
.plane li { list-style: none; break-inside: avoid; padding: 2px 0; overflow-wrap: anywhere; }
.plane li small { color: var(--muted); }
.plane li b { display: inline-block; min-width: 1.9em; font-variant-numeric: tabular-nums; }
.ranking th { text-align: left; }
.ranking td { white-space: nowrap; }
.ranking th + th + th { text-align: right; }
.first { border-left: 1px solid var(--line); }
tr > :first-child { border-right: 1px solid var(--line); }
tr > :nth-child(2) { border-left: 0; }
tbody th {
  position: sticky; left: 0; z-index: 1; background: var(--card); text-align: left;
  font-weight: 600; min-width: 132px; max-width: 190px; overflow-wrap: anywhere;
}
thead tr th:first-child { position: sticky; left: 0; z-index: 2; background: var(--card); }
tbody tr + tr > * { border-top: 1px solid var(--line); }
tbody + tbody tr:first-child > * { border-top: 1px solid var(--ink); }
tbody.references td, tbody.references th { background: var(--soft); }
tbody.references th { font-weight: 500; font-style: italic; }
th small, td small {
  display: block; font-weight: 400; font-size: 0.74rem; line-height: 1.35; color: var(--muted);
}
th small { font-style: normal; }
td small { white-space: nowrap; }
td .ends { white-space: normal; width: 5.8em; margin-left: auto; }
td .best {
  background: var(--best); color: var(--best-ink); font-weight: 700; border-radius: 4px;
  padding: 1px 5px; margin-right: -5px;
}
.key {
  display: flex; flex-wrap: wrap; gap: 4px 22px; margin: 8px 0 14px; padding: 0;
  font-size: 0.875rem;
}
.key li { list-style: none; display: flex; align-items: center; gap: 7px; }
.key svg { width: 30px; height: 10px; flex: none; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(290px, 1fr)); gap: 18px; }
figure {
  margin: 0; padding: 12px 14px 8px; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; min-width: 0;
}
figcaption { font-weight: 600; font-size: 0.92rem; margin-bottom: 4px; overflow-wrap: anywhere; }
figcaption small { font-weight: 400; color: var(--muted); font-size: 0.8rem; margin-left: 6px; }
.chart { display: block; width: 100%; height: auto; }
.samples { display: block; max-width: 100%; height: auto; }
details { margin: 40px 0 0; }
summary { font-size: 1.08rem; font-weight: 650; cursor: pointer; }
.chart text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
.legend { display: grid; grid-template-columns: minmax(150px, 220px) 1fr; gap: 0; margin: 14px 0; }
.legend dt, .legend dd { margin: 0; padding: 9px 0; border-top: 1px solid var(--line); }
.legend dt { font-weight: 600; font-size: 0.9rem; padding-right: 20px; overflow-wrap: anywhere; }
.legend dt small { display: block; font-weight: 400; color: var(--muted); }
.legend dd { font-size: 0.92rem; max-width: 80ch; }
.hidden {
  position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap;
}
@media (max-width: 640px) {
  main { padding: 24px 16px 48px; }
  h1 { font-size: 1.6rem; }
  h2 { font-size: 1.25rem; margin-top: 48px; }
  .facts { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 12px 18px; }
  tbody th { min-width: 104px; max-width: 120px; }
  .charts, .plane { grid-template-columns: minmax(0, 1fr); }
  .samples { max-width: 760px; }
  .legend { grid-template-columns: minmax(0, 1fr); }
  .legend dt { padding-bottom: 0; }
  .legend dd { border-top: 0; padding-top: 2px; }
}
@media print {
  .scroll { overflow: visible; }
  figure, tr { break-inside: avoid; }
}
"""
