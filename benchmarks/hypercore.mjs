// The peer of benchmarks/hypercore.py: answers each line of its standard input with seconds and items, one JSON a line.
// BENCH_MODULES names the folder whose node_modules hold hypercore.
import { createRequire } from 'module'
import fs from 'fs'
import os from 'os'
import path from 'path'
import readline from 'readline'
import { pathToFileURL } from 'url'

const require = createRequire(pathToFileURL(path.join(process.env.BENCH_MODULES, 'x.js')))
const Hypercore = require('hypercore')
const directory = fs.mkdtempSync(path.join(process.env.BENCH_DIRECTORY || os.tmpdir(), 'hypercore-'))
const cores = new Map()
const now = () => Number(process.hrtime.bigint()) / 1e9
const say = (value) => process.stdout.write(JSON.stringify(value) + '\n')

async function core (name) {
  if (!cores.has(name)) {
    const opened = new Hypercore(path.join(directory, name))
    await opened.ready()
    cores.set(name, opened)
  }
  return cores.get(name)
}

async function append (to, total, batch) {
  const block = Buffer.alloc(200, 7)
  const blocks = Array.from({ length: batch }, () => block)
  for (let done = 0; done < total; done += batch) await to.append(batch === 1 ? block : blocks)
}

const work = {
  append: async (total, batch) => append(await core(`append-${batch}`), total, batch),
  fill: async (total) => append(await core('filled'), total, 1000),
  get: async (total) => {
    const from = await core('filled')
    for (let i = 0; i < total; i++) await from.get((i * 7919) % from.length)
  },
  gets: async (total) => {
    const from = await core('filled')
    for (let i = 0; i < total; i += 100) {
      await Promise.all(Array.from({ length: 100 }, (_, n) => from.get(((i + n) * 7919) % from.length)))
    }
  },
  proof: async (total) => {
    const from = await core('filled')
    for (let i = 0; i < total; i++) {
      await from.proof({ block: { index: (i * 7919) % from.length, nodes: 0 }, upgrade: { start: 0, length: from.length } })
    }
  }
}

say({ node: process.version, hypercore: require('hypercore/package.json').version })
for await (const line of readline.createInterface({ input: process.stdin })) {
  const [what, total, ...rest] = line.split(' ')
  const begun = now()
  await work[what](Number(total), ...rest.map(Number))
  say({ seconds: now() - begun, items: Number(total) })
}
for (const opened of cores.values()) await opened.close()
fs.rmSync(directory, { recursive: true, force: true })
