// ws.mjs open|bcrypt: the least that a Node server for agents does. It checks the key as PatchMon's does (bcryptjs, cost
// 12), or takes everybody, keeps the socket, and greets. Prints where it listens.

import { createServer } from 'node:http'
import bcrypt from 'bcryptjs'
import { WebSocketServer } from 'ws'

const checks = process.argv[2] === 'bcrypt'
// Of the one key that the benchmark's agents have here.
const stored = checks && (await bcrypt.hash('0123456789abcdef'.repeat(4), 12))

const server = createServer((request, response) => response.writeHead(404).end())
const sockets = new WebSocketServer({ noServer: true })
const agents = new Map()

server.on('upgrade', async (request, socket, head) => {
  socket.on('error', () => {})
  const { 'x-api-id': id, 'x-api-key': key } = request.headers
  if (!id || !key || (checks && !(await bcrypt.compare(key, stored)))) {
    socket.end('HTTP/1.1 401 Unauthorized\r\n\r\n')
    return
  }
  sockets.handleUpgrade(request, socket, head, (agent) => {
    agents.set(id, agent)
    agent.on('message', () => {})
    agent.on('error', () => {})
    agent.on('close', () => agents.delete(id))
    agent.send('{"type":"connected"}')
  })
})

server.listen({ port: 0, host: '127.0.0.1', backlog: 16_384 }, () => console.log(`127.0.0.1:${server.address().port}`))
