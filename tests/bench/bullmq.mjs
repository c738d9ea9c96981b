// bullmq.mjs SOCKET CONCURRENCY: how long a job takes from its enqueue to its handler, one at a time, and how many a second
// go through. Producer and worker are one process, which is in BullMQ's favour. Prints one line of JSON.

import { Queue, Worker } from 'bullmq'
import { Redis } from 'ioredis'

const [path, concurrency] = [process.argv[2], Number(process.argv[3])]
const WARM_UP = 50
const ONE_AT_A_TIME = 500
const AT_ONCE = 10_000
const ADDED_AT_ONCE = 1_000

const client = () => new Redis(path, { maxRetriesPerRequest: null })
const producer = new Queue('bench', { connection: client() })
let handled = () => {}
const worker = new Worker('bench', async () => handled(), { connection: client(), concurrency })
await worker.waitUntilReady()

const took = []
for (let number = 0; number < WARM_UP + ONE_AT_A_TIME; number++) {
  const came = new Promise((resolve) => (handled = () => resolve(performance.now())))
  const asked = performance.now()
  await producer.add('one', { number })
  took.push((await came) - asked)
}
const sorted = took.slice(WARM_UP).sort((a, b) => a - b)

const done = new Promise((resolve) => {
  let left = AT_ONCE
  handled = () => --left === 0 && resolve()
})
const began = performance.now()
for (let first = 0; first < AT_ONCE; first += ADDED_AT_ONCE) {
  await producer.addBulk(Array.from({ length: ADDED_AT_ONCE }, (_, number) => ({ name: 'many', data: { number: first + number } })))
}
await done
const secs = (performance.now() - began) / 1000

const at = (share) => sorted[Math.floor(sorted.length * share)]
console.log(JSON.stringify({ p50_ms: at(0.5), p99_ms: at(0.99), jobs_per_sec: AT_ONCE / secs }))
// Whatever is still open ends with the process.
process.exit()
