"""The one style sheet of all pages: colours of both schemes, what the two switches do, phone and print."""

from __future__ import annotations

# chosen by the switch, or by #ja in the address as long as nothing is chosen
JAPANESE = ":is(:has(#ja:checked), :has(#ja:target):not(:has(#en:checked)))"

STYLE = f"""
:root {{ color-scheme: light dark;
  --ink: light-dark(#1b1f24, #e3e8ee); --paper: light-dark(#fff, #0f1419);
  --soft: light-dark(#f3f5f7, #192028); --line: light-dark(#d5dae0, #333d48);
  --quiet: light-dark(#57606a, #98a4b1); --link: light-dark(#0a58a8, #7ab8ff);
  --good: light-dark(#1a7f37, #4ac26b); --bad: light-dark(#b3261e, #ff8078);
  --warn: light-dark(#8a5a00, #e3b341); }}
:root:has(#light:checked) {{ color-scheme: light; }}
:root:has(#dark:checked) {{ color-scheme: dark; }}
:root{JAPANESE} body [lang="en"] {{ display: none; }}
:root:not({JAPANESE}) body [lang="ja"] {{ display: none; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 1rem/1.6 system-ui, "Segoe UI", "Hiragino Sans", "Noto Sans CJK JP", "Yu Gothic", sans-serif; }}
header, main {{ max-width: 60rem; margin: 0 auto; padding: 0 1rem; }}
main {{ padding-bottom: 4rem; }}
header {{ display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; align-items: center; padding-top: .8rem; }}
nav {{ display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; }}
.switches {{ display: flex; flex-wrap: wrap; gap: .4rem .8rem; margin-left: auto; font-size: .85rem; }}
fieldset {{ border: 1px solid var(--line); border-radius: .4rem; margin: 0; padding: 0; display: flex; }}
#ja {{ scroll-margin-top: 100vh; }} /* an address that ends so opens a page at its top */
legend, .switches input {{ position: absolute; width: 1px; height: 1px; overflow: hidden;
  clip-path: inset(50%); white-space: nowrap; }}
.switches label {{ padding: .15rem .6rem; cursor: pointer; color: var(--quiet); border-radius: .35rem; }}
.switches input:checked + label, :root{JAPANESE} label.ja,
:root:not({JAPANESE}) label[for="en"] {{ background: var(--soft); color: var(--ink); font-weight: 600; }}
.switches input:focus-visible + label {{ outline: 2px solid var(--link); }}
a {{ color: var(--link); }}
h1 {{ font-size: 1.6rem; line-height: 1.3; margin: 1.2rem 0 1rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-bottom: .25rem;
  border-bottom: 1px solid var(--line); }}
h3 {{ font-size: 1rem; margin: 1.4rem 0 .4rem; }}
p {{ margin: .7rem 0; overflow-wrap: anywhere; }}
[lang="ja"] {{ line-break: strict; word-break: auto-phrase; }}
.wide, .drawing {{ overflow-x: auto; margin: .8rem 0; }}
table {{ border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .38rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }}
thead th, thead td {{ background: var(--soft); font-weight: 600; vertical-align: bottom; }}
th:first-child, td:first-child {{ white-space: nowrap; }}
td:last-child:not(.n) {{ min-width: 14rem; overflow-wrap: anywhere; }}
th.n, td.n {{ text-align: right; }}
td.n {{ white-space: nowrap; }}
figure {{ margin: 1.4rem 0; }}
svg {{ width: 100%; min-width: 34rem; height: auto; display: block; }}
figcaption {{ color: var(--quiet); font-size: .88rem; margin-top: .3rem; }}
code {{ background: var(--soft); padding: .1em .3em; border-radius: .2em; font-size: .88em;
  overflow-wrap: anywhere; }}
details {{ border: 1px solid var(--line); border-radius: .4rem; padding: .4rem .8rem; margin: .6rem 0; }}
summary {{ cursor: pointer; font-weight: 600; overflow-wrap: anywhere; }}
.whole {{ white-space: nowrap; }}
.yes {{ color: var(--good); }}
.no {{ color: var(--bad); }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(10.4rem, 1fr)); gap: .8rem;
  margin: 1rem 0; }}
.tiles div {{ border: 1px solid var(--line); border-left: .3rem solid var(--line); border-radius: .4rem;
  padding: .6rem .8rem; break-inside: avoid; }}
.tiles div.good {{ border-left-color: var(--good); }}
.tiles div.bad {{ border-left-color: var(--bad); }}
.tiles div.warn {{ border-left-color: var(--warn); }}
dt {{ color: var(--quiet); font-size: .85rem; }}
dd {{ margin: 0; font-size: 1.35rem; font-weight: 600; line-height: 1.35; overflow-wrap: anywhere; }}
dd.note {{ font-size: .82rem; font-weight: 400; color: var(--quiet); }}
.chain {{ list-style: none; display: grid; gap: 1rem 1.8rem; margin: 1rem 0; padding: 0;
  grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); }}
.chain li {{ position: relative; border: 1px solid var(--line); border-radius: .4rem; background: var(--soft);
  padding: .5rem .8rem; font-size: .88rem; break-inside: avoid; }}
.chain li p {{ margin: .15rem 0; }}
.chain li code {{ background: none; padding: 0; }}
.chain li + li::before {{ content: "→"; position: absolute; left: -1.5rem; top: .4rem; color: var(--quiet);
  font-size: 1.1rem; }}
@media (max-width: 40rem) {{
  .chain {{ grid-template-columns: 1fr; row-gap: 1.7rem; }}
  .chain li + li::before {{ content: "↓"; left: 1rem; top: -1.75rem; }}
  .switches {{ margin-left: 0; }}
  th, td {{ padding: .35rem .4rem; }}
  th:first-child, td:first-child {{ white-space: normal; }}
  td:last-child:not(.n) {{ min-width: 11rem; }}
  td:nth-child(n+5):last-child:not(.n) {{ min-width: 19rem; }} /* beyond the screen: wide, not high */
}}
@media print {{
  :root {{ color-scheme: light !important; }} /* whatever is chosen on the screen */
  header {{ display: none; }}
  details::details-content {{ content-visibility: visible; block-size: auto; }} /* paper cannot be unfolded */
  figure, tr {{ break-inside: avoid; }}
  h2 {{ break-after: avoid; }}
  svg {{ min-width: 0; }}
}}
"""
