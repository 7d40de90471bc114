// Stock Hypercore on the other side: node peer.mjs <folder> make|verify|replicate < input.json > output.json
//                                    node peer.mjs <folder> serve, a line of JSON in and one out
// <folder> holds node_modules. Everything comes in as JSON with hex, and goes out the same way.
import { createRequire } from 'module'
import fs from 'fs'
import os from 'os'
import path from 'path'
import readline from 'readline'
import { pathToFileURL } from 'url'

const require = createRequire(pathToFileURL(path.join(path.resolve(process.argv[2]), 'x.js')))
const Hypercore = require('hypercore')
const Verifier = require('hypercore/lib/verifier')
const multisig = require('hypercore/lib/multisig')
const messages = require('hypercore/lib/messages')
const { MerkleTree } = require('hypercore/lib/merkle-tree')
const caps = require('hypercore/lib/caps')
const crypto = require('hypercore-crypto')
const c = require('compact-encoding')

const hex = (bytes) => (bytes ? Buffer.from(bytes).toString('hex') : '')
const unhex = (text) => Buffer.from(text, 'hex')
const directories = []
const directory = () => {
  directories.push(fs.mkdtempSync(path.join(os.tmpdir(), 'peer-')))
  return directories.at(-1)
}

// Whether a reader that knows a manifest, and so the key, accepts each of these proofs.
async function verify ({ cases }) {
  const results = []
  for (const { manifest, proof } of cases) {
    const decoded = Verifier.decodeManifest(unhex(manifest))
    const reader = new Hypercore(directory(), { manifest: decoded })
    await reader.ready()
    const result = { key: hex(reader.key), length: null, refused: null }
    try {
      const message = c.decode(messages.wire.data, unhex(proof))
      result.length = (await reader.verifyFullyRemote({ ...message, manifest: decoded })).length
    } catch (error) {
      result.refused = error.code || error.message
    }
    results.push(result)
    await reader.close()
  }
  return results
}

// Whether one reader, which applies proofs one after the other and keeps what they show, ends up with these blocks.
async function replicate ({ manifest, proofs, blocks }) {
  const decoded = Verifier.decodeManifest(unhex(manifest))
  const reader = new Hypercore(directory(), { manifest: decoded })
  await reader.ready()
  for (const proof of proofs) await reader.applyProof(c.decode(messages.wire.data, unhex(proof)))
  const found = []
  for (const index of blocks) found.push(hex(await reader.get(index, { wait: false })))
  const result = { length: reader.length, blocks: found }
  await reader.close()
  return result
}

async function append (core, signers, blocks) {
  if (!signers) return core.append(blocks)
  const batch = core.core.state.createTreeBatch()
  for (const block of blocks) batch.append(block)
  const signable = batch.signable(core.key)
  const inputs = signers.map(([signer, seed]) => {
    const { secretKey } = crypto.keyPair(unhex(seed))
    return { signer, signature: crypto.sign(signable, secretKey), patch: 0, nodes: null }
  })
  await core.append(blocks, { signature: multisig.assemble(inputs) })
}

// The answer to a request as replication makes it. The core's own proof() closes its reader before it looks for a byte, and
// fails on every seek.
async function answer (core, request) {
  const reader = core.state.storage.read()
  const making = await MerkleTree.proof(core.state, reader, request)
  const block = request.block ? reader.getBlock(request.block.index) : null
  reader.tryFlush()
  const proof = await making.settle()
  if (proof.block) proof.block.value = await block
  return c.encode(messages.wire.data, { request: request.id || 0, ...proof })
}

// A core of these batches, and its answers to these requests after the batch that each one names.
async function make ({ cores }) {
  const made = []
  for (const { manifest, seed, signers, batches, requests } of cores) {
    const decoded = manifest && Verifier.decodeManifest(unhex(manifest))
    const keyPair = seed && crypto.keyPair(unhex(seed))
    const core = new Hypercore(directory(), { manifest: decoded || undefined, keyPair })
    await core.ready()
    const answers = []
    for (let i = 0; i < batches.length; i++) {
      await append(core, signers, batches[i].map(unhex))
      for (const { after, ...request } of requests.filter(({ after }) => after === i)) {
        answers.push(hex(await answer(core, request)))
      }
    }
    made.push({
      key: hex(core.key),
      manifest: hex(Verifier.encodeManifest(core.core.header.manifest)),
      length: core.length,
      treeHash: hex(crypto.tree(core.core.state.roots)),
      signature: hex(core.core.state.signature),
      answers
    })
    await core.close()
  }
  return made
}

// A core that grows and answers requests, one line at a time: {seed}, then {append} or {request}.
async function serve () {
  let core = null
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { seed, append: blocks, request } = JSON.parse(line)
    let reply = {}
    try {
      if (seed) {
        core = new Hypercore(directory(), { keyPair: crypto.keyPair(unhex(seed)) })
        await core.ready()
        reply.manifest = hex(Verifier.encodeManifest(core.core.header.manifest))
      } else if (blocks) {
        await core.append(blocks.map(unhex))
        reply.length = core.length
      } else {
        reply.answer = hex(await answer(core, c.decode(messages.wire.request, unhex(request))))
      }
    } catch (error) {
      reply = { refused: error.code || error.message }
    }
    process.stdout.write(JSON.stringify(reply) + '\n')
  }
  if (core) await core.close()
}

const mode = process.argv[3]
if (mode === 'serve') {
  await serve()
} else {
  const input = JSON.parse(fs.readFileSync(0))
  process.stdout.write(JSON.stringify(await { make, verify, replicate }[mode](input)))
}
for (const folder of directories) fs.rmSync(folder, { recursive: true, force: true })
