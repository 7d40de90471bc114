// Makes hypercore_feeds.json with stock Hypercore: node make_hypercore_feeds.mjs <folder> > hypercore_feeds.json
// <folder> holds node_modules with hypercore (11.37.1 when the vectors were made). Everything in it is deterministic.
import { createRequire } from 'module'
import fs from 'fs'
import os from 'os'
import path from 'path'
import { pathToFileURL } from 'url'

const require = createRequire(pathToFileURL(path.join(path.resolve(process.argv[2]), 'x.js')))
const Hypercore = require('hypercore')
const Verifier = require('hypercore/lib/verifier')
const messages = require('hypercore/lib/messages')
const crypto = require('hypercore-crypto')
const c = require('compact-encoding')

const hex = (bytes) => (bytes ? Buffer.from(bytes).toString('hex') : '')
const directories = []
const directory = () => {
  directories.push(fs.mkdtempSync(path.join(os.tmpdir(), 'feeds-')))
  return directories.at(-1)
}
const keyPair = (byte) => crypto.keyPair(Buffer.alloc(32, byte))
const block = (i) => Buffer.from(`entry ${i};`.repeat((i * 5) % 7))
const treeHash = (core) => hex(crypto.tree(core.core.state.roots))

async function open (manifest, keys) {
  const core = new Hypercore(directory(), { manifest, keyPair: keys })
  await core.ready()
  return core
}

async function heads (core, from, to) {
  const list = []
  for (let i = from; i < to; i++) {
    await core.append(block(i))
    list.push({ length: i + 1, treeHash: treeHash(core), signature: hex(core.core.state.signature) })
  }
  return list
}

// The proof as stock Hypercore makes it, after a reader that knows the key alone has accepted it.
async function proofs (core, requests) {
  const list = []
  for (const request of requests) {
    const proof = await core.proof(structuredClone(request))
    const reader = new Hypercore(directory(), core.key)
    await reader.ready()
    const manifest = core.core.header.manifest
    const accepted = !request.upgrade.start && (await reader.verifyFullyRemote({ ...proof, manifest })).length
    await reader.close()
    const wireData = c.encode(messages.wire.data, { request: 0, ...proof })
    list.push({ request, length: core.length, accepted, wireData: hex(wireData) })
  }
  return list
}

const within = (index, length) => ({ block: { index, nodes: 0 }, upgrade: { start: 0, length } })

async function device (userData) {
  const core = await open({ version: 2, quorum: 1, signers: [{ publicKey: keyPair(1).publicKey }], userData }, keyPair(1))
  const feed = { heads: [], proofs: [] }
  for (const [length, requests] of [
    [1, [within(0, 1)]],
    [7, [within(0, 1), within(2, 3), within(3, 6), within(6, 7)]],
    [12, [within(0, 8), within(5, 11), within(11, 12), { block: { index: 9, nodes: 0 }, upgrade: { start: 7, length: 4 } }]],
    [33, [within(32, 33), within(13, 20), within(7, 31)]]
  ]) {
    feed.heads.push(...(await heads(core, core.length, length)))
    feed.proofs.push(...(await proofs(core, requests)))
  }
  return { core, feed }
}

async function describe (name, core, seeds, feed) {
  const manifest = hex(Verifier.encodeManifest(core.core.header.manifest))
  const blocks = []
  for (let i = 0; i < core.length; i++) blocks.push(hex(block(i)))
  const described = { name, seeds, manifest, key: hex(core.key), blocks, ...feed }
  await core.close()
  return described
}

const feeds = []
const userData = Buffer.from(
  'a3646e616d65726c6564676572206f66206272616e63682037686964656e7469747958205be38f26b2e74103e55f54abfea37680fc57136980dad251bf8539eb8ab35fea69636f6e74696e756573f6',
  'hex'
)
const own = await device(userData)
feeds.push(await describe('device feed, manifest version 2 with user data', own.core, [1], own.feed))

const old = await open({ version: 0, quorum: 1, signers: [{ publicKey: keyPair(2).publicKey }] }, keyPair(2))
const oldFeed = { heads: await heads(old, 0, 5), proofs: await proofs(old, [within(1, 5), within(0, 3)]) }
feeds.push(await describe('single signer, manifest version 0', old, [2], oldFeed))

const source = await open({ version: 1, quorum: 1, signers: [{ publicKey: keyPair(3).publicKey }] }, keyPair(3))
await heads(source, 0, 5)
const prologue = { hash: crypto.tree(source.core.state.roots), length: 5 }
const born = await open({ version: 1, quorum: 1, signers: [{ publicKey: keyPair(4).publicKey }], prologue }, keyPair(4))
await born.core.copyPrologue(source.core.state)
const bornFeed = { heads: [], proofs: await proofs(born, [within(2, 5)]) }
bornFeed.heads.push({ length: 5, treeHash: treeHash(born), signature: hex(born.core.state.signature) })
bornFeed.heads.push(...(await heads(born, 5, 8)))
bornFeed.proofs.push(...(await proofs(born, [within(3, 5), { block: { index: 6, nodes: 0 }, upgrade: { start: 5, length: 3 } }])))
feeds.push(await describe('prologue of 5 blocks and a signer', born, [4], bornFeed))
await source.close()

const packages = {}
for (const name of ['hypercore', 'hypercore-crypto', 'compact-encoding', 'flat-tree']) {
  const file = path.join(path.resolve(process.argv[2]), 'node_modules', name, 'package.json')
  packages[name] = JSON.parse(fs.readFileSync(file)).version
}
const origin = 'stock Hypercore, by make_hypercore_feeds.mjs'
process.stdout.write(JSON.stringify({ origin, packages, feeds }, null, 1) + '\n')
for (const made of directories) fs.rmSync(made, { recursive: true, force: true })
