// An agent on Node's ws. See README.md for what it prints.

import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

// The packages are below the target directory, where no import from here would look.
const { WebSocket } = createRequire(`${process.env.INTEROP_PACKAGES}/`)('ws')

const SCAN = JSON.parse(readFileSync(new URL('scan.json', import.meta.url), 'utf8'))
const host = JSON.parse(process.argv[2])

const say = (event, more) => console.log(JSON.stringify({ event, ...more }))
const headers = key => ({ 'X-Api-Id': host.api_id, 'X-Api-Key': key })
const wholeSeconds = () => new Date().toISOString().replace(/\.\d+Z$/, 'Z')

// The limit of real agents. Compression is offered, as this library does by default; the server has none.
const upgrade = key =>
  new WebSocket(`ws${host.url.replace(/^http/, '')}/api/v1/agents/ws`, { headers: headers(key), maxPayload: 65536 })

async function refusedWithWrongKey() {
  const socket = upgrade('0'.repeat(64))
  socket.on('open', () => say('connected', { greeting: 'a wrong key was let in' }))
  const [, answer] = await once(socket, 'unexpected-response')
  const parts = await answer.toArray()
  say('refused', { status: answer.statusCode, body: JSON.parse(Buffer.concat(parts)) })
}

async function ping(socket, payload) {
  socket.ping(payload)
  const [answer] = await once(socket, 'pong')
  say('pong', { payload: answer.toString() })
}

// One message, cut inside a character, with a ping between the fragments.
async function inFragments(socket, text) {
  const whole = Buffer.from(text)
  const cut = whole.indexOf('é') + 1
  socket.send(whole.subarray(0, cut), { binary: false, fin: false })
  await ping(socket, 'between')
  socket.send(whole.subarray(cut), { binary: false, fin: true })
}

async function scan(socket) {
  const began = new Date()
  for (const [number, progress] of SCAN.progress.entries()) {
    const text = JSON.stringify({ ...progress, timestamp: wholeSeconds() })
    if (number === 1) await inFragments(socket, text)
    else socket.send(text)
  }
  const results = structuredClone(SCAN.results)
  for (const one of results.scans) Object.assign(one, { started_at: began.toISOString(), completed_at: new Date().toISOString() })
  const answer = await fetch(`${host.url}/api/v1/compliance/scans`, {
    method: 'POST',
    headers: { ...headers(host.api_key), 'Content-Type': 'application/json' },
    body: JSON.stringify(results),
  })
  say('posted', { status: answer.status, body: await answer.json() })
  socket.send(JSON.stringify({ ...SCAN.completed, timestamp: wholeSeconds() }))
}

await refusedWithWrongKey()

const socket = upgrade(host.api_key)
let greeted = false
socket.on('message', async data => {
  const frame = JSON.parse(data)
  if (!greeted) {
    greeted = true
    say('connected', { greeting: frame })
    await ping(socket, 'alone')
  } else if (frame.type === 'compliance_scan') {
    say('scan', { frame })
    await scan(socket)
  }
})
process.stdin.resume()
process.stdin.on('end', () => socket.close(1000, 'done'))
const [code] = await once(socket, 'close')
say('closed', { code })
process.exit()
