// Draws a comparison of two answers: tokens coloured by a chosen quantity, a panel for the token that is pointed at, the gate under each step.
// The Trace page and the HTML file that it writes share this code. Everything a model wrote is set as textContent.

const BLUE = [58, 135, 200], WARM = [213, 94, 0], STRONGEST = 0.62
const KINDS = ["vanilla", "steered"]

function el(tag, className, text) {
  const made = document.createElement(tag)
  if (className) made.className = className
  if (text !== undefined && text !== null) made.textContent = text
  return made
}

function paint(rgb, strength) {
  return "rgba(" + rgb.join(", ") + ", " + (STRONGEST * Math.min(1, Math.max(0, strength))).toFixed(3) + ")"
}

function number(value, digits = 3) {
  if (value === null || value === undefined) return "—"
  return (value < 0 ? "−" : "") + Math.abs(value).toFixed(digits)
}

function nats(value, sign) {
  if (value === null || value === undefined) return "—"
  const tiny = value !== 0 && Math.abs(value) < 0.0005
  const size = tiny ? Math.abs(value).toExponential(1).replace("-", "−") : Math.abs(value).toFixed(3)
  return (value < 0 ? "−" : sign && value > 0 ? "+" : "") + size + " nats"
}

function share(logprob) {
  if (logprob === null || logprob === undefined) return "—"
  const p = Math.exp(logprob)
  return p >= 0.0005 ? (100 * p).toFixed(1) + " %" : p.toExponential(0)
}

function tableOf(columns, rows, className) {
  const table = el("table", className)
  const head = table.appendChild(el("thead")).appendChild(el("tr"))
  for (const name of columns) head.appendChild(el("th", "", name)).scope = "col"
  const body = table.appendChild(el("tbody"))
  for (const row of rows) {
    const line = body.appendChild(el("tr"))
    for (const cell of row) line.appendChild(el("td", "", cell))
  }
  return table
}

// What is known about one token, under both models where both were read after the same prefix.
function lookAt(doc, token, other) {
  const reading = token.reading
  if (!reading) return { models: { [KINDS[token.row]]: { logprob: token.logprob } }, near: [], kl: null }
  const own = { logprob: reading.logprob, rank: reading.rank, entropy: reading.entropy }
  const unsteered = { logprob: reading.unsteered_logprob, rank: reading.unsteered_rank, entropy: reading.unsteered_entropy }
  if (token.row === 1) return { models: { vanilla: unsteered, steered: own }, near: reading.near, kl: reading.kl, live: token.live }
  if (!other || !other.reading) return { models: { vanilla: own }, near: reading.near, kl: null }
  const there = other.reading.near.find((row) => row[0] === token.id)
  const same = other.id === token.id
  const steered = {
    logprob: same ? other.reading.logprob : there ? there[2] : null,
    rank: same ? other.reading.rank : null,
    entropy: other.reading.entropy,
  }
  return { models: { vanilla: own, steered }, near: other.reading.near, kl: other.reading.kl, live: other.live }
}

function drawTrace(root, doc, kept) {
  const state = kept || { quantity: null, held: null }
  const known = doc.quantities.filter((quantity) => quantity.end !== null)
  if (!known.some((quantity) => quantity.key === state.quantity)) state.quantity = known.length ? known[0].key : ""
  root.replaceChildren()
  const view = root.appendChild(el("div", doc.names.length > 1 ? "tv" : "tv tv-one"))
  const bar = view.appendChild(el("div", "tv-bar"))
  const main = view.appendChild(el("div", "tv-main"))
  const panel = view.appendChild(el("div", "tv-panel"))
  panel.setAttribute("aria-live", "polite")
  const spans = [new Map(), new Map()], tokens = [new Map(), new Map()]

  // -- the bar: the legend of the colours, and a button that goes to the first difference
  bar.appendChild(el("span", "tv-quiet", "Colour by"))
  const buttons = [...known, { key: "", label: "nothing" }].map((quantity) => {
    const button = bar.appendChild(el("button", "", quantity.label))
    button.type = "button"
    button.title = quantity.about || ""
    button.onclick = () => { state.quantity = quantity.key; recolour() }
    return [quantity.key, button]
  })
  const legend = bar.appendChild(el("span", "tv-legend"))
  if (doc.divergence) {
    const jump = bar.appendChild(el("button", "", "Jump to first divergence"))
    jump.type = "button"
    jump.onclick = () => {
      const span = spans[1].get(doc.divergence.at) || spans[0].get(doc.divergence.at)
      span.scrollIntoView({ block: "center", behavior: "smooth" })
      span.focus({ preventScroll: true })
      hold(span.token)
    }
  }
  if (doc.steered_anywhere) bar.appendChild(el("span", "tv-key", "an impulse was live"))
  if (doc.thinks) bar.appendChild(el("span", "tv-thinking", "thinking"))

  function recolour() {
    for (const [key, button] of buttons) button.setAttribute("aria-pressed", String(key === state.quantity))
    const quantity = known.find((one) => one.key === state.quantity)
    legend.replaceChildren()
    for (const row of spans) for (const span of row.values()) {
      const value = quantity ? span.token.values[quantity.key] : null
      const strength = value === null || value === undefined ? 0 : Math.sign(value) * Math.sqrt(Math.abs(value) / quantity.end)
      span.style.background = strength ? paint(strength < 0 ? BLUE : quantity.signed ? WARM : BLUE, Math.abs(strength)) : ""
    }
    if (!quantity) return
    const ramp = el("span", "tv-ramp")
    const places = quantity.signed ? [-1, -0.5, -0.2, -0.05, 0, 0.05, 0.2, 0.5, 1] : [0, 0.02, 0.1, 0.3, 0.6, 1]
    const stops = places.map((x) => {
      const at = quantity.signed ? 50 + 50 * x : 100 * x
      return paint(x < 0 || !quantity.signed ? BLUE : WARM, Math.sqrt(Math.abs(x))) + " " + at + "%"
    })
    ramp.style.background = "linear-gradient(to right, " + stops.join(", ") + ")"
    const end = number(quantity.end, quantity.end < 0.095 ? 3 : 2)
    legend.append(
      el("span", "", quantity.signed ? "−" + end : "0"), ramp, el("span", "", (quantity.signed ? "+" : "") + end + " " + quantity.unit),
    )
    if (quantity.signed) legend.append(el("span", "tv-quiet", "0 in the middle"))
  }

  // -- the panel
  function otherOf(token) {
    const same = doc.aligned > token.at
    return same ? tokens[1 - token.row].get(token.at) || null : null
  }

  function show(token) {
    panel.replaceChildren()
    panel.classList.toggle("held", Boolean(state.held))
    if (!token) {
      panel.appendChild(el("div", "tv-quiet", "Point at a token for its numbers. Click holds it, Escape releases." + (state.fork ? " Held, it offers other tokens to go on from." : "") + " Arrow keys move: ← → token, ↑ ↓ answer."))
      return
    }
    const other = otherOf(token), seen = lookAt(doc, token, other), names = KINDS.filter((name) => seen.models[name])
    panel.appendChild(el("div", "tv-name", "“" + token.name + "”"))
    panel.appendChild(el("div", "", KINDS[token.row] + " answer · control point " + token.m + " · token " + (token.at + 1) + " · id " + token.id))
    const facts = [
      ["log-prob (nats)", ...names.map((name) => number(seen.models[name].logprob))],
      ["probability", ...names.map((name) => share(seen.models[name].logprob))],
    ]
    if (token.reading) {
      facts.push(["rank", ...names.map((name) => seen.models[name].rank ?? "—")])
      facts.push(["entropy (nats)", ...names.map((name) => number(seen.models[name].entropy))])
    }
    panel.appendChild(tableOf(["", ...names], facts, "facts"))
    if (seen.kl !== null) {
      const moved = seen.models.steered.logprob
      const change = moved === null ? null : moved - seen.models.vanilla.logprob
      panel.appendChild(el("div", "tv-kl", "KL(steered ‖ vanilla) " + (seen.live ? nats(seen.kl) : "0: no impulse was live")))
      panel.appendChild(el("div", "", "log-prob, steered − vanilla: " + nats(change, true)))
    }
    if (other) {
      const same = other.id === token.id ? "the same token" : "“" + other.name + "”, id " + other.id
      panel.appendChild(el("div", "", "The " + KINDS[1 - token.row] + " answer has " + same + " here, after the same prefix."))
    } else if (token.row === 1) {
      panel.appendChild(el("div", "tv-quiet", "vanilla: the unsteered model after this answer’s own prefix."))
    }
    if (seen.near.length) panel.appendChild(alternatives(seen, token, names))
    else if (!token.reading) panel.appendChild(el("div", "tv-quiet", "Not read again: the answers had not ended."))
    panel.appendChild(el("div", "tv-quiet tv-hint", state.held ? "Held. Escape, or another click on it, releases." : "Click holds this panel, Escape releases."))
    if (seen.near.length && state.fork) panel.appendChild(el("div", "tv-quiet", "Click one of the likeliest tokens to fork the answer there."))
  }

  function alternatives(seen, token, names) {
    const columns = { vanilla: 3, steered: 2 }
    const alone = token.row === 0 && names.length === 1
    const rows = seen.near.map((row) => [row[1], ...names.map((name) => share(row[alone ? 2 : columns[name]]))])
    const table = tableOf(["likeliest", ...names], rows, "near")
    seen.near.forEach((row, i) => {
      const line = table.tBodies[0].rows[i]
      line.title = "id " + row[0]
      if (row[0] === token.id) line.className = "tv-chosen"
      if (state.fork) forkable(line, token, row)
      names.forEach((name, j) => {
        const part = (100 * Math.exp(row[alone ? 2 : columns[name]])).toFixed(1)
        const rgb = name === "steered" ? WARM : BLUE
        line.cells[j + 1].style.background = "linear-gradient(to left, " + paint(rgb, 0.6) + " " + part + "%, transparent " + part + "%)"
      })
    })
    return table
  }

  function forkable(line, token, row) {
    const go = () => { hold(token); state.fork({ row: token.row, at: token.at, id: row[0], text: row[1], was: token.name }) }
    line.classList.add("tv-fork")
    line.title += " · click to fork the answer here"
    line.tabIndex = 0
    line.setAttribute("role", "button")
    line.onclick = go
    line.onkeydown = (event) => {
      if (event.key !== "Enter" && event.key !== " ") return
      event.preventDefault()
      go()
    }
  }

  // -- pointing, holding, moving
  function mark(token, className) {
    for (const row of spans) for (const span of row.values()) span.classList.remove(className)
    if (token) spans[token.row].get(token.at).classList.add(className)
  }

  let over = null

  function point(token) {
    over = token
    if (state.held) return
    mark(token, "shown")
    show(token)
  }

  function hold(token) {
    state.held = token ? [token.row, token.at] : null
    mark(null, "shown")
    mark(token, "held")
    show(token)
  }

  function release() {
    const under = over
    hold(null)
    point(under)
  }

  function isHeld(token) {
    return state.held && state.held[0] === token.row && state.held[1] === token.at
  }

  function move(token, key) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[key]
    const row = step ? token.row : 1 - token.row
    const last = Math.max(...tokens[row].keys())
    return spans[row].get(Math.min(last, token.at + (step || 0)))
  }

  function onKey(event) {
    if (event.key === "Escape" && state.held) release()
  }

  function tokenSpan(token) {
    const span = el("span", "tv-token" + (token.live ? " live" : "") + (token.made ? " made" : "") + (token.thought ? " thought" : ""), token.text)
    span.token = token
    span.tabIndex = token.at === 0 ? 0 : -1
    span.setAttribute("role", "button")
    span.onmouseenter = span.onfocus = () => point(token)
    span.onclick = () => isHeld(token) ? release() : hold(token)
    span.onkeydown = (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault()
        isHeld(token) ? release() : hold(token)
      } else if (event.key.startsWith("Arrow")) {
        event.preventDefault()
        event.stopPropagation()
        const next = move(token, event.key)
        if (!next) return
        span.tabIndex = -1
        next.tabIndex = 0
        if (state.held) hold(next.token)
        next.focus()
      }
    }
    if (doc.divergence && token.at === doc.divergence.at) span.classList.add("apart")
    spans[token.row].set(token.at, span)
    tokens[token.row].set(token.at, token)
    return span
  }

  // -- the answers, step by step
  const heads = main.appendChild(el("div", "tv-pair"))
  for (const name of doc.names) heads.appendChild(el("strong", "", name))
  for (const step of doc.steps) {
    const pair = main.appendChild(el("section", "tv-pair"))
    for (const row of step.rows) {
      const cell = pair.appendChild(el("div", "tv-cell"))
      const head = cell.appendChild(el("div", "tv-head"))
      if (row.code !== undefined) {
        const label = head.appendChild(el("span", "tv-code", row.code))
        label.style.background = row.colour
        label.title = "code of this step in the run's codebook"
      }
      head.append(row.head)
      if (!row.tokens.length) continue
      const strip = cell.appendChild(el("div", "tv-strip"))
      for (const token of row.tokens) strip.appendChild(tokenSpan(token))
    }
    if (step.gate) pair.lastElementChild.appendChild(gateOf(step.gate)) // under the steered answer: the one that it decides
  }

  function gateOf(gate) {
    const box = el("details")
    box.appendChild(el("summary", "", gate.summary))
    box.appendChild(el("div", "", gate.funnel))
    box.appendChild(el("div", "", gate.reason))
    if (gate.rows.length) box.appendChild(el("div", "tv-scroll")).appendChild(tableOf(gate.columns, gate.rows, ""))
    if (gate.note) box.appendChild(el("div", "tv-quiet", gate.note))
    return box
  }

  main.onmouseleave = () => point(null)
  document.addEventListener("keydown", onKey)
  recolour()
  const again = state.held && tokens[state.held[0]].get(state.held[1])
  hold(again || null)
  return { state, stop: () => document.removeEventListener("keydown", onKey) }
}
