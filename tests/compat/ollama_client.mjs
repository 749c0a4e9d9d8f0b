// The official npm client against an Ollama server: prints what it saw as one JSON object.
//
//   node ollama_client.mjs BASE_ADDRESS NODE_MODULES
import { createRequire } from 'node:module'
import { join } from 'node:path'

const [host, modules] = process.argv.slice(2)
const { Ollama } = createRequire(join(modules, 'here.js'))('ollama')
const ollama = new Ollama({ host })

const model = 'smollm2:135m'
const messages = [{ role: 'user', content: 'Count from one to five.' }]
const options = { num_predict: 8, seed: 7, temperature: 0.8 }

const collect = async (stream, text) => {
  const parts = []
  let last
  for await (const part of stream) {
    parts.push(text(part))
    last = part
  }
  return { text: parts.join(''), lines: parts.length, done: last.done, reason: last.done_reason }
}

const failure = async (promise) => {
  try {
    await promise
    return null
  } catch (error) {
    return { name: error.name, message: error.message, status: error.status_code }
  }
}

const aborted = async () => {
  const stream = await ollama.chat({ model, messages, stream: true })
  let lines = 0
  for await (const _ of stream) {
    lines += 1
    stream.abort()
  }
  return lines
}

console.log(
  JSON.stringify({
    version: (await ollama.version()).version,
    list: (await ollama.list()).models.map((entry) => entry.name),
    show: (await ollama.show({ model })).capabilities,
    chat: await collect(
      await ollama.chat({ model, messages, options, stream: true }),
      (part) => part.message.content,
    ),
    generate: await collect(
      await ollama.generate({ model, prompt: messages[0].content, options, stream: true }),
      (part) => part.response,
    ),
    whole: (await ollama.chat({ model, messages, options })).message.content,
    wrongOption: await failure(ollama.chat({ model, messages, options: { seed: 'x' } })),
    abort: await failure(aborted()),
    after: (await ollama.chat({ model, messages, options })).message.content,
  }),
)
