"""How reports look: light and dark, on a phone, in print. Lines differ in dashes too, for those who see no color."""

STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --text: #1b1f24; --soft: #57606a; --rule: #d0d7de; --panel: #f6f8fa;
  --link: #0b5fa5; --s0: #0b5fa5; --s1: #c2410c; --s2: #2e7d32; --s3: #8e24aa; --s4: #7a5c00; --s5: #57606a }
@media (prefers-color-scheme: dark) {
  :root { --back: #14171c; --text: #e6e9ee; --soft: #a3adb8; --rule: #3b434d; --panel: #1d2229;
    --link: #6cb6ff; --s0: #6cb6ff; --s1: #ffa657; --s2: #7ee787; --s3: #d2a8ff; --s4: #e3c55a; --s5: #c0c8d0 } }
* { box-sizing: border-box }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100% }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  overflow-wrap: break-word }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--rule) }
h3 { font-size: 1.05rem; margin: 1.2rem 0 .4rem }
p, li { max-width: 46rem } .lead { font-size: 1.05rem } .soft, figcaption, caption, dt { color: var(--soft) }
a { color: var(--link) } main:focus { outline: none }
:focus-visible { outline: 3px solid var(--s1); outline-offset: 2px; border-radius: 2px }
.skip { position: absolute; left: -100rem } .skip:focus { position: static; display: inline-block; padding: .4rem }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(9.5rem, 100%), 1fr)); gap: .6rem;
  margin: 1rem 0 }
.figures div { background: var(--panel); border: 1px solid var(--rule); border-radius: 6px; padding: .5rem .7rem;
  display: flex; flex-direction: column-reverse; justify-content: flex-end }
.figures dd { margin: 0; font-size: 1.35rem; font-weight: 600 } .figures dt { font-size: .85rem; line-height: 1.3 }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; padding: 0; list-style: none; margin: .5rem 0 }
nav a { display: inline-block; padding: .25rem 0 }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(21rem, 100%), 28rem)); gap: 1.2rem 2rem }
.tiles { display: flex; flex-wrap: wrap; gap: 1rem 1.2rem; align-items: flex-start }
.tiles figure { max-width: 100% } .pairs { gap: .8rem 4% } .pairs figure { max-width: 48% }
.wide figure { max-width: 46rem }
figure { margin: 0; min-width: 0; max-width: 34rem } figcaption { font-size: .9rem } figcaption b { color: var(--text) }
svg { display: block; width: 100%; height: auto } svg text { fill: currentColor; font-size: 12px }
svg .axis { stroke: currentColor; opacity: .45 } svg .rule { stroke: currentColor; opacity: .13 }
svg .curve { fill: none; stroke-width: 2; stroke-linejoin: round } svg .bar { stroke-width: 1.5; opacity: .7 }
.s0 { stroke: var(--s0) } .s1 { stroke: var(--s1); stroke-dasharray: 7 4 } .s2 { stroke: var(--s2);
  stroke-dasharray: 2 3 }
.s3 { stroke: var(--s3); stroke-dasharray: 10 3 2 3 } .s4 { stroke: var(--s4); stroke-dasharray: 4 2 }
.s5 { stroke: var(--s5); stroke-dasharray: 12 4 } .dot { fill: var(--back); stroke-dasharray: none; stroke-width: 2 }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; padding: 0; margin: .2rem 0; list-style: none;
  font-size: .9rem }
.legend svg { display: inline-block; width: 2.2rem; height: .8rem; vertical-align: middle; margin-right: .35rem }
img { max-width: 100%; height: auto; border: 1px solid var(--rule); display: block }
  img.pixels { image-rendering: pixelated }
.scroll img { max-width: none } .scroll { overflow-x: auto; margin: .6rem 0; max-width: 100% }
table { border-collapse: collapse; font-size: .95rem } caption { text-align: left; padding-bottom: .3rem }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--rule); text-align: right;
  font-variant-numeric: tabular-nums;
  vertical-align: top; white-space: nowrap } th.words, td.words { text-align: left }
  thead th { border-bottom-width: 2px }
tbody th { font-weight: 500 } tr.sum th, tr.sum td { font-weight: 700 }
details { margin: .6rem 0 } summary { cursor: pointer; padding: .3rem 0; font-weight: 600 }
dl.plain dt { font-weight: 600; color: var(--text) } dl.plain dd { margin: 0 0 .5rem; max-width: 46rem }
pre { background: var(--panel); border: 1px solid var(--rule); border-radius: 6px; padding: .6rem .8rem;
  overflow-x: auto;
  white-space: pre-wrap; overflow-wrap: anywhere } code, pre { font-size: .9rem }
td code { white-space: pre-wrap; overflow-wrap: anywhere } .failed { color: var(--s1); font-weight: 600 }
footer { margin-top: 2.5rem; border-top: 1px solid var(--rule); color: var(--soft); font-size: .9rem }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto } }
@media print { nav, .skip { display: none } body { max-width: none; padding: 0 } .scroll { overflow: visible }
  th, td { white-space: normal } figure, tr, .figures div { break-inside: avoid } h2, h3, .soft { break-after: avoid }
  details::details-content { content-visibility: visible; block-size: auto } }
"""
